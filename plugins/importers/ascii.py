"""Text masks of the MICCAI nuclei challenges: "width height", then one label per pixel, row by row."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ...core.errors import MsdmError
from .base import Content, ForeignField, Importer
from .reading import check_pixels, check_size, head, read_picture
from .source import Source

_ENDING = "_mask"


class ASCII(Importer):
    """`x_mask.txt` (or `x.txt`) with `x.png`."""

    looks_for = "x_mask.txt that begins with width and height"

    def detect(self, source: Source) -> bool:
        return any(_is_mask(path) for path in source.glance)

    def fields(self, source: Source) -> Iterator[ForeignField]:
        for path in source.files(".txt"):
            if _is_mask(path):
                name = path.stem.removesuffix(_ENDING)
                image = source.find_image(path, name)
                yield ForeignField(name, source.relative(path), partial(_read, path, image, source.kind))


def _is_mask(path: Path) -> bool:
    if path.suffix.lower() != ".txt":
        return False
    lines = head(path, 256).split(b"\n")
    return len(lines) > 1 and len(lines[0].split()) == 2 and all(w.isdigit() for w in lines[0].split())


def _read(path: Path, image: Path | None, kind: str) -> Content:
    width, height = (int(word) for word in head(path, 256).split()[:2])
    check_pixels((height, width), str(path))
    check_size(
        path, 12 * (height * width + 32), f"its first line says {width} x {height}: it has too many numbers"
    )
    try:
        numbers = np.array(path.read_bytes().split()[2:], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise MsdmError(f"{path} has a label that is no whole number ({error}); write it again") from None
    if len(numbers) != height * width or (numbers < 0).any() or (numbers >= 2**31).any():
        raise MsdmError(
            f"{path} has {len(numbers)} labels, and its first line says {width} x {height}, "
            f"{width * height} labels "
            f"from 0; it is cut short, or no mask"
        )
    labels = numbers.reshape(height, width).astype(np.int32)
    return Content(read_picture(image) if image else None, {kind: labels})
