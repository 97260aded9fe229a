"""Cellpose: `x.png` or `x_img.png` with `x_masks.png`, `x_cp_masks.png` or `x_seg.npy` (a pickle)."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ...core.errors import MsdmError
from .base import Content, ForeignField, Importer
from .reading import read_label_map, read_picture
from .seg_npy import read_seg
from .source import Source

_SUFFIXES = (".png", ".tif", ".tiff")
_ENDINGS = ("_cp_masks", "_masks")  # the longer first: both end alike
_SEG = "_seg.npy"


class Cellpose(Importer):
    """Label maps named after their pictures.

    Where a field has both, `x_masks` is taken and not `x_cp_masks`; both win over `x_seg.npy`, which is a
    Python pickle and is read only where the user allows it.
    """

    looks_for = "x_masks.png or .tif, x_cp_masks.png, x_seg.npy"

    def detect(self, source: Source) -> bool:
        return any(_base(path) or path.name.endswith(_SEG) for path in source.glance)

    def fields(self, source: Source) -> Iterator[ForeignField]:
        found: dict[Path, Path] = {}
        for path in source.files(*_SUFFIXES):
            base = _base(path)
            if base:
                key = path.with_name(base)
                ours = not path.stem.endswith("_cp_masks")
                if key not in found or ours:
                    found[key] = path
        for path in source.files(_SEG):
            key = path.with_name(path.name.removesuffix(_SEG))
            if key not in found and key.with_name(key.name + "_img") not in found:
                if not source.allow_pickle:
                    raise MsdmError(
                        f"{path} is a Python pickle, and there is no {key.name}_masks beside it; save masks "
                        "as PNG "
                        f"or TIFF in Cellpose, or, if you trust the file, give --allow-pickle"
                    )
                found[key] = path
        for key, path in sorted(found.items()):
            name = key.name.removesuffix("_img")
            image = source.find_image(path, name, f"{name}_img")
            yield ForeignField(name, source.relative(path), partial(_read, path, image, source.kind))


def _base(path: Path) -> str | None:
    """The name of the field, of a label map's file."""
    if path.suffix.lower() not in _SUFFIXES:
        return None
    for ending in _ENDINGS:
        if path.stem.endswith(ending):
            return path.stem.removesuffix(ending) or None
    return None


def _read(path: Path, image: Path | None, kind: str) -> Content:
    picture = read_picture(image) if image else None
    if path.name.endswith(_SEG):
        labels, own = read_seg(path)
        return Content(own if picture is None else picture, {kind: labels})
    return Content(picture, {kind: read_label_map(path)})
