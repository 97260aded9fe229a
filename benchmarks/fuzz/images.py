"""Small pictures and label maps of every form that the readers take."""

import io
from functools import cache

import numpy as np
from PIL import Image

SIZE = (12, 16)
"""Height and width of every field here."""
_rng = np.random.default_rng(0)
RGB = _rng.integers(0, 256, (*SIZE, 3), np.uint8)
LABELS = np.repeat(np.arange(4, dtype=np.uint16), 48).reshape(SIZE)


@cache
def picture(format: str = "PNG") -> bytes:
    """An RGB picture."""
    out = io.BytesIO()
    Image.fromarray(RGB).save(out, format=format)
    return out.getvalue()


def picture_files(*formats: str) -> list[bytes]:
    """Pictures of several modes in each format."""
    found = []
    for format in formats:
        for mode in ("RGB", "RGBA", "L", "P", "1", "I;16"):
            made = Image.fromarray(LABELS) if mode == "I;16" else Image.fromarray(RGB).convert(mode)
            out = io.BytesIO()
            try:
                made.save(out, format=format)
            except (OSError, KeyError):
                continue
            found.append(out.getvalue())
    return found


def labels_files() -> list[bytes]:
    """Label maps as TIFF: by strips and tiles, of both byte orders and offsets, compressed and not."""
    import tifffile

    found = []
    for options in (
        {}, {"byteorder": ">"}, {"bigtiff": True}, {"compression": "zlib"}, {"tile": (16, 16)},
        {"compression": "zlib", "predictor": True, "rowsperstrip": 4},
        {"tile": (16, 16), "compression": "zlib"},
        {"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 0.5}},
        {"ome": True, "tile": (16, 16), "compression": "zlib", "metadata": {"PhysicalSizeX": 2}},
    ):  # fmt: skip
        out = io.BytesIO()
        tifffile.imwrite(out, LABELS, **options)
        found.append(out.getvalue())
    for compression in ("tiff_lzw", "packbits", "tiff_adobe_deflate", "group4", "jpeg"):
        out = io.BytesIO()
        grey = Image.fromarray(LABELS.astype(np.uint8))
        (grey.convert("1") if compression == "group4" else grey).save(
            out, format="TIFF", compression=compression
        )
        found.append(out.getvalue())
    return found
