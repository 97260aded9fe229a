"""Horizontal and vertical maps of instances: four definitions that go by one name.

=================  ===================================================================================
``hover``          From the instance's centroid, each side scaled to its own extreme: exactly -1 at the
                   leftmost (topmost) and 1 at the rightmost (lowest) pixel. MONAI's ``ComputeHoVerMaps``.
``hover_legacy``   Bit-compatible with HoVer-Net (Graham et al. 2019, ``models/hovernet/targets.py``): the
                   origin is the centre of mass rounded half up, but pixels are counted from 1, so that zero
                   falls one pixel left of (above) it; 4-connected pieces of a label count as instances of
                   their own; those under 30 pixels are left 0.
``boundary``       (d_left - d_right) / (d_left + d_right), with the distances to the ends of the pixel's own
                   run: the pixels of the same label that are contiguous in its row (column). 0 in a run of
                   one pixel. One reading of MSDM's "distances to the boundaries of each instance".
``edt``            sign(x - centroid) * (1 - d / max d), with d the Euclidean distance to the nearest pixel
                   outside the instance and its maximum over the instance: 0 in the middle, rising in steps
                   towards the rim. The other reading.
=================  ===================================================================================

Outside the image is outside every instance. The cut instance is measured as it is cut, so maps depend on the
crop; HoVer-Net itself measures the uncut instance, on an annotation that it has padded.

Every mode is vectorised over the pixels; none loops over instances.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

HVMode = Literal["hover", "hover_legacy", "boundary", "edt"]

LEGACY_MINIMUM = 30
"""Pixels. HoVer-Net drops what is smaller; an instance of exactly so many stays."""

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Scaling = Callable[["_Lines"], Floats]


def hv_maps(labels: Ints, mode: HVMode = "hover") -> NDArray[np.float32]:
    """Horizontal and vertical map of every instance of a label image.

    Parameters
    ----------
    labels : ndarray (H, W) of int
        Instance ids; 0 and below are background. Ids may have gaps and are otherwise without meaning.
    mode : {'hover', 'hover_legacy', 'boundary', 'edt'}
        The definition, as above. Except in ``hover_legacy`` an instance is all pixels of its id, contiguous
        or not.

    Returns
    -------
    ndarray (2, H, W) of float32 in [-1, 1]
        H, negative on the left, and V, negative at the top; 0 on the background.

    Examples
    --------
    >>> hv_maps(np.ones((1, 5), int))[0]
    array([[-1. , -0.5,  0. ,  0.5,  1. ]], dtype=float32)
    """
    labels = np.maximum(labels, 0)
    if mode == "hover":
        return _two_sided(*_dense(labels), _from_centroid)
    if mode == "hover_legacy":
        return _two_sided(*_pieces(labels), _from_rounded_centre)
    if mode == "boundary":
        return np.stack([_position(labels), _position(labels.T).T])
    return _distance(*_dense(labels))


def _dense(labels: Ints) -> tuple[NDArray[np.int32], int]:
    """The labels numbered 1..n in the order of their ids, and n."""
    top = int(labels.max(initial=0))
    if top > 4 * labels.size:  # a look-up table would be larger than what it saves
        ids, flat = np.unique(labels, return_inverse=True)
        shift = 0 if ids[0] == 0 else 1
        return (flat.reshape(labels.shape) + shift).astype(np.int32), len(ids) - 1 + shift
    present = np.zeros(top + 1, dtype=np.int32)
    present[labels] = 1
    present[0] = 0
    table = np.cumsum(present, dtype=np.int32) * present
    return table[labels], int(present.sum())


def _pieces(labels: Ints) -> tuple[NDArray[np.int32], int]:
    """4-connected pieces of equal label, the small ones dropped, numbered 1..n; and n."""
    from skimage.measure import label

    pieces: Ints = label(labels, background=0, connectivity=1)
    pixels = np.bincount(pieces.ravel(), minlength=1)
    pixels[0] = 0
    kept = pixels >= LEGACY_MINIMUM
    return (np.cumsum(kept, dtype=np.int32) * kept)[pieces], int(kept.sum())


@dataclass(frozen=True)
class _Lines:
    """The columns (or rows) of every instance, one entry each: a map is a table of these, looked up by pixel.

    Attributes
    ----------
    index : ndarray (H, W) of int
        The entry of each pixel.
    owner, x : ndarray (E,) of int
        The instance and the column (row) of each entry; instance 0 is the background.
    pixels, total, first, last : ndarray (n + 1,) of int
        Of each instance: pixels, sum of their columns (rows), the first and the last.
    """

    index: NDArray[np.int64]
    owner: Ints
    x: Ints
    pixels: Ints
    total: Ints
    first: Ints
    last: Ints


def _lines(dense: NDArray[np.int32], count: int) -> tuple[_Lines, _Lines]:
    """Those of the horizontal and of the vertical map."""
    from scipy.ndimage import find_objects

    height, width = dense.shape
    boxes = [(r.start, r.stop - 1, c.start, c.stop - 1) for r, c in find_objects(dense, max_label=count)]
    extents = np.array([(0, height - 1, 0, width - 1), *boxes], dtype=np.int64).T
    top, bottom, left, right = extents
    return (
        _axis(dense, left, right, np.arange(width)),
        _axis(dense, top, bottom, np.arange(height)[:, None]),
    )


def _axis(dense: NDArray[np.int32], first: Ints, last: Ints, x: Ints) -> _Lines:
    entries = last - first + 1
    begin = np.cumsum(entries) - entries
    index = (begin - first)[dense]
    index += x
    owner = np.repeat(np.arange(len(entries)), entries)
    at = np.arange(len(owner)) - (begin - first)[owner]
    hits = np.bincount(index.ravel(), minlength=len(owner))
    pixels, total = np.add.reduceat(hits, begin), np.add.reduceat(hits * at, begin)
    return _Lines(index, owner, at, pixels, total, first, last)


def _two_sided(dense: NDArray[np.int32], count: int, scaling: Scaling) -> NDArray[np.float32]:
    """The maps whose tables `scaling` computes."""
    if count == 0:
        return np.zeros((2, *dense.shape), dtype=np.float32)
    maps = np.empty((2, *dense.shape), dtype=np.float32)
    for out, lines in zip(maps, _lines(dense, count), strict=True):
        table = scaling(lines).astype(np.float32)
        table[lines.owner == 0] = 0
        np.take(table, lines.index, out=out, mode="clip")  # never out of range; "clip" spares a copy
    return maps


def _from_centroid(lines: _Lines) -> Floats:
    # Times the number of pixels all is an integer: zero is exactly zero, and a flip exactly a change of sign.
    offset = (lines.pixels[lines.owner] * lines.x - lines.total[lines.owner]).astype(np.float64)
    low, high = lines.total - lines.pixels * lines.first, lines.pixels * lines.last - lines.total
    scaled: Floats = np.divide(offset, _scale(offset, low, high, lines.owner))
    return scaled


def _from_rounded_centre(lines: _Lines) -> Floats:
    # floor(mean + 1/2) in integers, then counted from 1; float32 division, as the reference divides
    centre = (2 * lines.total + lines.pixels) // np.maximum(2 * lines.pixels, 1)
    offset = (lines.x - centre[lines.owner] + 1).astype(np.float32)
    low, high = centre - lines.first - 1, lines.last - centre + 1
    scaled: Floats = np.divide(offset, _scale(offset, low, high, lines.owner), dtype=np.float32)
    return scaled


def _scale(offset: Floats, low: Ints, high: Ints, owner: Ints) -> Ints:
    """The extreme of each entry's side, at least 1 where a side has none."""
    return np.where(offset < 0, np.maximum(low, 1)[owner], np.maximum(high, 1)[owner])


def _runs(labels: Ints) -> tuple[Ints, Ints]:
    """First and last column of each pixel's run of equal label in its row; of 16 bits where they fit."""
    height, width = labels.shape
    starts = np.ones((height, width), dtype=bool)
    starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
    begin = np.flatnonzero(starts)
    length = np.diff(begin, append=labels.size)
    dtype = np.dtype(np.int16 if width < 2**14 else np.int32)
    first = (begin % width).astype(dtype)
    last = (first + length - 1).astype(dtype)
    return np.repeat(first, length).reshape(labels.shape), np.repeat(last, length).reshape(labels.shape)


def _position(labels: Ints) -> NDArray[np.float32]:
    """Signed position of each pixel within its run."""
    if labels.size == 0:
        return np.zeros(labels.shape, dtype=np.float32)
    first, last = _runs(labels)
    x = np.arange(labels.shape[1], dtype=first.dtype)
    position: NDArray[np.float32] = (2 * x - first - last).astype(np.float32) / np.maximum(
        last - first, 1
    ).astype(np.float32)
    position *= labels > 0
    return position


def _to_rim(labels: Ints) -> Ints:
    """Columns to the nearest pixel of another label in the same row, the outside being another.

    0 on the background.
    """
    first, last = _runs(labels)
    x = np.arange(labels.shape[1], dtype=first.dtype)
    # in place: fresh memory costs as much as the arithmetic
    np.subtract(x, first, out=first)
    np.subtract(last, x, out=last)
    distance: Ints = np.minimum(first, last, out=first)
    distance += 1
    distance *= labels > 0
    return distance


def _squared_distance(labels: Ints) -> NDArray[np.int32]:
    """Squared Euclidean distance to the nearest pixel of another label; 0 on the background.

    Exact and separable (Felzenszwalb and Huttenlocher 2012): the distance within the column, then the least
    of dx^2 + dy^2 along the row. A pixel of another label offers too much there, never too little, because
    the distance within the row, which is no larger, is offered first.
    """
    across, along = _to_rim(labels), np.ascontiguousarray(_to_rim(np.ascontiguousarray(labels.T)).T)
    bound = np.minimum(across, along)
    largest = int(bound.max(initial=0))
    # Above `largest` every distance loses to one already found: capped there, a square and what is offered,
    # which is less than two, mostly fit 16 bits, and those go through the processor twice as fast.
    narrow = np.dtype(np.uint16 if 2 * largest**2 < 2**16 else np.int32)
    column = np.square(np.minimum(along, largest).astype(narrow))
    squared = np.square(bound.astype(narrow))
    offered = np.empty_like(column)
    # a shift as long as every distance found so far improves none of them
    for shift in range(1, largest):
        np.add(column, shift * shift, out=offered)
        np.minimum(squared[:, shift:], offered[:, :-shift], out=squared[:, shift:])
        np.minimum(squared[:, :-shift], offered[:, shift:], out=squared[:, :-shift])
    return squared.astype(np.int32)


def _distance(dense: NDArray[np.int32], count: int) -> NDArray[np.float32]:
    """Sign of the offset from the centroid times the normalised depth."""
    if count == 0:
        return np.zeros((2, *dense.shape), dtype=np.float32)
    squared = _squared_distance(dense)
    largest = np.ones(count + 1, dtype=np.int32)
    np.maximum.at(largest, dense.ravel(), squared.ravel())
    depth = 1 - np.sqrt(squared.astype(np.float32) / largest.astype(np.float32)[dense])
    maps = _two_sided(dense, count, _side)
    maps *= depth
    return maps


def _side(lines: _Lines) -> Floats:
    side: Floats = np.sign(lines.pixels[lines.owner] * lines.x - lines.total[lines.owner]).astype(np.float32)
    return side
