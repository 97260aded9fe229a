"""Outlines as pixels.

Outlines of GeoJSON, COCO, ImageScope and ImageJ run along the corners of pixels: pixel (column c, row r) is
the square c..c+1, r..r+1, and it is inside when its centre (c + 0.5, r + 0.5) is. `skimage.draw.polygon`
takes whole numbers for centres instead, which loses half a pixel on two sides.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
_CROSSINGS = 2**22
"""Crossings of outlines with rows that are held at once."""


def polygon(
    rings: Sequence[Points], height: int, width: int
) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The pixels whose centres lie inside a polygon, by the even-odd rule over all its rings.

    A centre on an outline counts as inside on its left and upper side only, so that polygons that share an
    edge share no pixel and leave none out.

    Parameters
    ----------
    rings : sequence of ndarray (N, 2) float64
        x and y of corners, closed or not; an outline and its holes in any order and direction.
    height, width : int
        Of the picture; what lies outside is cut off.

    Returns
    -------
    (slice, slice)
        Rows and columns of the window that the mask covers.
    ndarray (h, w) of bool

    Examples
    --------
    >>> window, mask = polygon([np.array([[1.0, 0.0], [3.0, 0.0], [3.0, 2.0], [1.0, 2.0]])], 4, 4)
    >>> window, mask.shape, bool(mask.all())
    ((slice(0, 2, None), slice(1, 3, None)), (2, 2), True)
    """
    corners = np.concatenate(rings) if len(rings) else np.empty((0, 2))
    if not len(corners):
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), bool)
    left, top = (_pixel(corners[:, axis].min(), size) for axis, size in ((0, width), (1, height)))
    right, bottom = (_pixel(corners[:, axis].max(), size) for axis, size in ((0, width), (1, height)))
    window = (slice(top, bottom), slice(left, right))
    edges = np.concatenate([np.hstack([ring, np.roll(ring, -1, axis=0)]) for ring in rings])
    # Always from the upper end, so that two polygons round the crossing of a shared edge alike.
    edges = np.where((edges[:, 1] > edges[:, 3])[:, None], edges[:, [2, 3, 0, 1]], edges)
    first = np.clip(np.ceil(edges[:, 1] - 0.5), top, bottom).astype(np.int64)
    last = np.clip(np.ceil(edges[:, 3] - 0.5), top, bottom).astype(np.int64)
    edges, first, count = edges[last > first], first[last > first], (last - first)[last > first]
    h, w = bottom - top, right - left
    crossed = np.zeros(h * (w + 1), np.int64)
    # an edge crosses at most h rows, so each part is bounded
    for part in np.array_split(np.arange(len(edges)), int(count.sum()) // _CROSSINGS + 1):
        x0, y0, x1, y1 = np.repeat(edges[part], count[part], axis=0).T
        row = np.repeat(first[part], count[part]) + _counting(count[part])
        x = x0 + (row + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
        column = np.clip(np.ceil(x - 0.5), left, right).astype(np.int64)
        crossed += np.bincount((row - top) * (w + 1) + column - left, minlength=crossed.size)
    inside = np.cumsum(crossed.reshape(h, w + 1), axis=1)[:, :w] & 1
    return window, inside.astype(bool)


def contour(points: Points, height: int, width: int) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The pixels of a contour that lists the centres of its boundary pixels, and those inside it.

    That is how OpenCV's findContours, HoVer-Net and Cellpose write outlines; the boundary belongs to the
    instance. Exact for the contours of `findContours`, with or without `CHAIN_APPROX_SIMPLE`; holes are not
    in them.

    Parameters
    ----------
    points : ndarray (N, 2) float64
        Whole numbers, column and row, inside the picture.
    height, width : int

    Returns
    -------
    As `polygon`.
    """
    if not len(points):
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), bool)
    (left, top), (right, bottom) = points.min(axis=0).astype(int), points.max(axis=0).astype(int)
    window = (slice(int(top), int(bottom) + 1), slice(int(left), int(right) + 1))
    mask = np.zeros((bottom - top + 1, right - left + 1), bool)
    (rows, columns), inner = polygon([points + 0.5], height, width)
    mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = inner
    step = np.roll(points, -1, axis=0) - points
    count = np.abs(step).max(axis=1).astype(np.int64) + 1
    share = _counting(count) / np.repeat(np.maximum(count - 1, 1), count)
    line = np.rint(np.repeat(points, count, axis=0) + share[:, None] * np.repeat(step, count, axis=0))
    column, row = line.astype(np.int64).T
    mask[row - top, column - left] = True
    return window, mask


def _pixel(coordinate: float, size: int) -> int:
    """The first pixel whose centre is not before a coordinate, within the picture."""
    return int(np.clip(np.ceil(coordinate - 0.5), 0, size))


def _counting(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 .. n-1 for each n."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
