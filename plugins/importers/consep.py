"""CoNSeP and sets in its layout: `Images/x.png`, `Labels/x.mat` (Graham et al. 2019, arXiv 1812.06499)."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from .base import Content, ForeignField, Importer
from .hovernet_output import is_output, type_names
from .matlab import read_mat
from .reading import read_picture
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
                read = partial(_read, path, source.find_image(path, path.stem), names, source.kind)
                yield ForeignField(path.stem, source.relative(path), read)


def _read(path: Path, image: Path | None, names: Mapping[int, str], kind: str) -> Content:
    labels, types = read_mat(path)
    classes = {kind: {label: names.get(number, str(number)) for label, number in types.items()}}
    return Content(read_picture(image) if image else None, {kind: labels}, classes)
