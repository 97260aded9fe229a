"""Findings about instances: pieces, specks, and nuclei against cells."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .finding import Finding

SPECK = 10
"""Pixels below which an instance is a speck, by default."""
PART = 4
"""A piece with at least 1/PART of the largest one's pixels is an instance of its own, and else dirt."""
LabelMap = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Pieces:
    """The connected pieces (8-connectivity) of all instances.

    Attributes
    ----------
    map : ndarray (H, W) int
        The piece of every pixel, 0 is background.
    label : ndarray (P + 1,) int64
        The instance of each piece; 0 at 0.
    area : ndarray (P + 1,) int64
        Pixels of each piece; 0 at 0.
    """

    map: NDArray[Any]
    label: NDArray[np.int64]
    area: NDArray[np.int64]


def pieces(labels: LabelMap) -> Pieces:
    """The connected pieces of the instances of a label mask (H, W)."""
    from skimage.measure import label

    found = label(labels, background=0, connectivity=2).astype(np.int64)
    area = np.bincount(found.reshape(-1))
    area[0] = 0
    owner = np.zeros(len(area), np.int64)
    owner[found.reshape(-1)] = labels.reshape(-1)
    return Pieces(found, owner, area)


def is_foreground(found: Pieces) -> bool:
    """Whether one label alone stands for several instances, as in a picture of 0 and 255."""
    areas = np.sort(found.area[1:])
    return len(areas) > 1 and len(np.unique(found.label[1:])) == 1 and bool(areas[-2] * PART >= areas[-1])


def instance_findings(labels: LabelMap, file: str, speck: int) -> Iterator[Finding]:
    """Instances in pieces, and specks."""
    found = pieces(labels)
    if is_foreground(found):
        yield Finding("one-label", file, str(found.label[1]), f"one label in {len(found.area) - 1} pieces")
        return
    count = np.bincount(found.label[1:])
    total = np.bincount(found.label[1:], found.area[1:])
    for number in np.flatnonzero(count > 1):
        areas = np.sort(found.area[found.label == number])[::-1]
        shown = ", ".join(map(str, areas[:4])) + (", ..." if len(areas) > 4 else "")
        yield Finding("fragments", file, str(number), f"{len(areas)} pieces of {shown} pixels")
    for number in np.flatnonzero((total > 0) & (total < speck)):
        yield Finding("speck", file, str(number), f"{int(total[number])} pixels")


def owners(nuclei: LabelMap, cells: LabelMap) -> dict[int, tuple[int, int, int]]:
    """The cell of every nucleus: the one that holds most of its pixels; of equals, the lowest number.

    Parameters
    ----------
    nuclei, cells : ndarray (H, W) of int
        Below 2^31.

    Returns
    -------
    dict of label -> (cell, outside, across)
        The cell's label, 0 where no pixel lies in one; pixels outside every cell; pixels in other cells.
    """
    inside = nuclei > 0
    # as one number: rows of a matrix are compared ten times slower
    pairs = nuclei[inside].astype(np.int64) << 32 | cells[inside].astype(np.int64)
    pairs, count = np.unique(pairs, return_counts=True)
    nucleus, cell = pairs >> 32, pairs & 0xFFFFFFFF
    held: dict[int, dict[int, int]] = {}
    for n, c, pixels in zip(nucleus.tolist(), cell.tolist(), count.tolist(), strict=True):
        held.setdefault(n, {})[c] = pixels
    found = {}
    for n, by_cell in held.items():
        outside = by_cell.pop(0, 0)
        # the pairs come in ascending order, and max takes the first of equals
        owner = max(by_cell, key=by_cell.__getitem__, default=0)
        found[n] = (owner, outside, sum(by_cell.values()) - by_cell.get(owner, 0))
    return found


def nesting_findings(nuclei: LabelMap, cells: LabelMap, file: str) -> Iterator[Finding]:
    """Nuclei that have no cell, reach out of it, or lie in several."""
    for number, (owner, outside, across) in owners(nuclei, cells).items():
        if not owner:
            yield Finding("nucleus-without-cell", file, str(number), f"{outside} pixels, none in a cell")
            continue
        if outside:
            yield Finding("nucleus-outside-cell", file, str(number), f"{outside} pixels outside cell {owner}")
        if across:
            yield Finding(
                "nucleus-across-cells", file, str(number), f"{across} pixels in others than cell {owner}"
            )
