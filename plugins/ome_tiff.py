"""Large pictures as tiled, pyramidal OME-TIFF (Goldberg et al. 2005), a tile at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.files import atomic_write
from ..core.mapped import scratch_array

TILE = 256
"""Side of a tile."""
SMALLEST = 512
"""A pyramid ends where neither side is longer."""
_BIG = 2**32 - 2**25
"""Bytes from which a TIFF needs offsets of 64 bits."""


def pyramid(base: NDArray[Any], folder: Path, *, mean: bool) -> list[NDArray[Any]]:
    """A picture and its halves.

    Parameters
    ----------
    base : ndarray (H, W) or (H, W, C) of uint8, uint16 or uint32
    folder : Path
        Of scratch files.
    mean : bool
        Of 2 x 2 pixels take the mean; False takes the upper left one, as labels have none.

    Returns
    -------
    list of ndarray
        The first is `base`. Each is half as large as the one before, rounded down.
    """
    levels = [base]
    while max(levels[-1].shape[:2]) > SMALLEST and min(levels[-1].shape[:2]) > 1:
        last = levels[-1]
        height, width = last.shape[0] // 2, last.shape[1] // 2
        half = scratch_array((height, width, *last.shape[2:]), last.dtype, folder)
        for top in range(0, height, TILE):
            rows = last[2 * top : 2 * min(top + TILE, height), : 2 * width]
            if not mean:
                half[top : top + TILE] = rows[::2, ::2]
                continue
            four = [rows[y::2, x::2].astype(np.uint32) for y in (0, 1) for x in (0, 1)]
            half[top : top + TILE] = (sum(four) + 2) // 4
        levels.append(half)
    return levels


def write_ome_tiff(
    path: Path, levels: Sequence[NDArray[Any]], *, name: str, pixel_size: float | None = None
) -> None:
    """Write a pyramid; the file appears when it is complete.

    Parameters
    ----------
    path : Path
    levels : sequence of ndarray (H, W) or (H, W, 3)
        From `pyramid`: grey, or RGB of uint8. Lossless: Deflate.
    name : str
        Of the picture, in the file's metadata.
    pixel_size : float or None
        Micrometres.

    Raises
    ------
    MsdmError
        The file cannot be written.
    """
    import tifffile

    base = levels[0]
    rgb = base.ndim == 3
    metadata: dict[str, Any] = {"axes": "YXS" if rgb else "YX", "Name": name}
    if pixel_size is not None:
        metadata |= {f"PhysicalSize{axis}": pixel_size for axis in "XY"}
        metadata |= {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    common: dict[str, Any] = {
        "photometric": "rgb" if rgb else "minisblack", "tile": (TILE, TILE), "compression": "zlib",
        "maxworkers": 1,
    }  # fmt: skip
    large = sum(level.nbytes for level in levels) > _BIG
    with atomic_write(path) as temporary, tifffile.TiffWriter(temporary, ome=True, bigtiff=large) as tif:
        for k, level in enumerate(levels):
            options = {**common, "shape": level.shape, "dtype": level.dtype}
            if pixel_size is not None:
                per_centimetre = 1e4 / pixel_size * level.shape[1] / base.shape[1]
                options |= {"resolution": (per_centimetre, per_centimetre), "resolutionunit": "CENTIMETER"}
            if k == 0:
                tif.write(_tiles(level), subifds=len(levels) - 1, metadata=metadata, **options)
            else:
                tif.write(_tiles(level), subfiletype=1, metadata=None, **options)


def _tiles(level: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The tiles of a level, row by row, those at the end padded with 0."""
    height, width = level.shape[:2]
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            tile = level[top : top + TILE, left : left + TILE]
            lacking = [(0, TILE - tile.shape[0]), (0, TILE - tile.shape[1])] + [(0, 0)] * (level.ndim - 2)
            yield np.ascontiguousarray(np.pad(tile, lacking))
