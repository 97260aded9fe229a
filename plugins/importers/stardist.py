"""StarDist: `images/x.tif` with its label map `masks/x.tif` (Schmidt et al. 2018, arXiv 1806.03535)."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ...core.errors import MsdmError
from .base import Content, ForeignField, Importer
from .dsb2018 import is_field
from .reading import read_label_map, read_picture
from .source import PICTURES, Source

_SUFFIXES = (".tif", ".tiff", ".png")


class StarDist(Importer):
    """Pairs of folders `images` and `masks` (or `labels`), as in the data of StarDist's examples."""

    looks_for = "images/x.tif with masks/x.tif of the same names"

    def detect(self, source: Source) -> bool:
        return any(_is_mask(path) and _image(path) is not None for path in source.glance)

    def fields(self, source: Source) -> Iterator[ForeignField]:
        for path in source.files(*_SUFFIXES):
            if _is_mask(path):
                image = _image(path)
                if image is None:
                    raise MsdmError(
                        f"{path} has no picture of its name in {path.parent.parent / 'images'}; add it there"
                    )
                yield ForeignField(path.stem, source.relative(path), partial(_read, path, image, source.kind))


def _is_mask(path: Path) -> bool:
    return path.parent.name in ("masks", "labels") and path.suffix.lower() in _SUFFIXES


def _image(mask: Path) -> Path | None:
    folder = mask.parent.parent / "images"
    found = [path for suffix in PICTURES if (path := folder / f"{mask.stem}{suffix}").is_file()]
    return next((path for path in found if not is_field(path)), None)


def _read(path: Path, image: Path, kind: str) -> Content:
    return Content(read_picture(image), {kind: read_label_map(path)})
