"""Turned and scaled units: pixels are looked up at the nearest place, the same for every kind."""

import numpy as np
from numpy.typing import NDArray

from .units import Stamp, mended


def turned(stamp: Stamp, rng: np.random.Generator) -> Stamp:
    """The unit mirrored with probability 1/2 and turned by any angle, about the middle of its box.

    Where an instance of a few pixels would vanish, it is turned by a multiple of 90 degrees, which changes no
    form.
    """
    mirror, angle = bool(rng.integers(2)), float(rng.uniform(0, 2 * np.pi))
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix = np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([1.0, -1.0 if mirror else 1.0])
    height, width = stamp.footprint.shape
    centre = np.array([stamp.top + (height - 1) / 2, stamp.left + (width - 1) / 2])
    fresh = mended(resampled(stamp, matrix, centre), stamp)
    return fresh if fresh is not None else quarter_turned(stamp, mirror, int(angle * 2 / np.pi))


def quarter_turned(stamp: Stamp, mirror: bool, quarters: int) -> Stamp:
    """The unit mirrored or not, and turned by 0 to 3 times 90 degrees; its upper left corner stays."""
    pieces = {}
    for kind, piece in stamp.masks.items():
        pieces[kind] = np.ascontiguousarray(np.rot90(piece[:, ::-1] if mirror else piece, quarters))
    return Stamp(pieces, stamp.top, stamp.left)


def resampled(stamp: Stamp, matrix: NDArray[np.float64], centre: NDArray[np.float64]) -> Stamp:
    """The unit under a linear map of (row, column) that leaves `centre` where it is."""
    height, width = stamp.footprint.shape
    low = np.array([stamp.top, stamp.left], float)
    high = low + np.array([height - 1, width - 1])
    corners = np.array([(y, x) for y in (low[0], high[0]) for x in (low[1], high[1])])
    moved = (corners - centre) @ matrix.T + centre
    first = np.floor(moved.min(0) - 1).astype(int)
    last = np.ceil(moved.max(0) + 1).astype(int)
    rows, columns = np.meshgrid(
        *(np.arange(a, b + 1) for a, b in zip(first, last, strict=True)), indexing="ij"
    )
    back = (np.stack([rows, columns], -1) - centre) @ np.linalg.inv(matrix).T + centre - low
    y, x = np.rint(back[..., 0]).astype(int), np.rint(back[..., 1]).astype(int)
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    pieces = {}
    for kind, piece in stamp.masks.items():
        fresh = np.zeros(inside.shape, np.int32)
        fresh[inside] = piece[y[inside], x[inside]]
        pieces[kind] = fresh
    return _trimmed(Stamp(pieces, int(first[0]), int(first[1])))


def _trimmed(stamp: Stamp) -> Stamp:
    """Without empty rows and columns around."""
    rows, columns = np.nonzero(stamp.footprint)
    if not rows.size:
        return stamp
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    pieces = {kind: np.ascontiguousarray(piece[box]) for kind, piece in stamp.masks.items()}
    return Stamp(pieces, stamp.top + int(rows.min()), stamp.left + int(columns.min()))
