"""CoNSeP and sets in its layout: `Images/x.png`, `Labels/x.mat` (Graham et al. 2019, arXiv 1812.06499)."""

from collections.abc import Iterator
from functools import partial

from .base import ForeignField, Importer
from .hovernet_output import is_output, read_matrix, type_names
from .source import Source


class CoNSeP(Importer):
    """MATLAB files with an `inst_map`, and types in `inst_type` or `type_map`.

    Types are numbers, or the names that a `type_info.json` beside the files, or above them, gives them.
    """

    looks_for = ".mat files with an inst_map (Labels/x.mat, Images/x.png)"

    def detect(self, source: Source) -> bool:
        return any(path.suffix.lower() == ".mat" and not is_output(path) for path in source.glance)

    def fields(self, source: Source) -> Iterator[ForeignField]:
        for path in source.files(".mat"):
            if not is_output(path):
                names = type_names(source, path)
                read = partial(read_matrix, path, source.find_image(path, path.stem), names, source.kind)
                yield ForeignField(path.stem, source.relative(path), read)
