"""The layout of this project (docs/data-layout.md): to rename columns, or to merge metadata."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from ...core.fields import IMAGES, MANIFEST, has_file, locate, mask_folder, mask_kinds
from ...core.images import read_image, read_labels
from ...core.manifest import read_manifest
from ..instances import read_instances
from .base import Content, ForeignField, Importer
from .source import Source


class Native(Importer):
    """`metadata.csv` with `images/` and a folder of label maps per kind; classes of `instances.csv`."""

    looks_for = "metadata.csv with images/ and nuclei/ or cells/"

    def detect(self, source: Source) -> bool:
        root = source.path
        return (root / MANIFEST).is_file() and (root / IMAGES).is_dir() and bool(mask_kinds(root))

    def fields(self, source: Source) -> Iterator[ForeignField]:
        root = source.path
        kinds = mask_kinds(root)
        classes = read_instances(root)
        for row in read_manifest(root / MANIFEST):
            id = row.pop("id")
            read = partial(_read, root, id, kinds, classes.get(id, {}))
            yield ForeignField(id, f"{IMAGES}/{id}", read, row)


def _read(root: Path, id: str, kinds: Sequence[str], classes: Mapping[str, Mapping[int, str]]) -> Content:
    folders = {kind: root / mask_folder(kind) for kind in kinds}
    masks = {kind: read_labels(locate(at, id)) for kind, at in folders.items() if has_file(at, id)}
    return Content(read_image(locate(root / IMAGES, id)), masks, classes)
