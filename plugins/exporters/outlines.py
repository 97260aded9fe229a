"""Pixels as outlines along their corners: pixel (column c, row r) is the square c..c+1, r..r+1."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]
Ring = list[Point]
# A step along an edge with the inside to the right (y grows downwards), and how to turn right and left of it.
_RIGHT = {(1, 0): (0, 1), (0, 1): (-1, 0), (-1, 0): (0, -1), (0, -1): (1, 0)}


def polygons(mask: NDArray[np.bool_], column: int = 0, row: int = 0) -> list[list[Ring]]:
    """The polygons of an instance: one per piece that is connected through pixels' sides.

    Parameters
    ----------
    mask : ndarray (H, W) of bool
    column, row : int
        Of the mask's first pixel in the picture.

    Returns
    -------
    list of list of list of (x, y)
        Of each piece the outline and then its holes, each closed (the first point again at its end). No
        ring meets itself, and those of one piece meet in points at most, so that polygons are valid by OGC
        Simple Features.

    Examples
    --------
    >>> polygons(np.ones((1, 2), bool), 5, 3)
    [[[(5, 3), (7, 3), (7, 4), (5, 4), (5, 3)]]]
    """
    from scipy.ndimage import find_objects
    from scipy.ndimage import label as connected

    pieces, _ = connected(mask)
    found = []
    for number, (rows, columns) in enumerate(find_objects(pieces), 1):
        at = (column + columns.start, row + rows.start)
        rings = [ring for walk in _walks(pieces[rows, columns] == number, *at) for ring in _simple(walk)]
        # Of a connected piece one ring runs round it, and it has the largest area.
        rings.sort(key=_area, reverse=True)
        found.append([_corners(ring) for ring in rings])
    return found


def _walks(mask: NDArray[np.bool_], column: int, row: int) -> Iterator[Ring]:
    """Closed walks along the edges of a mask, a step per pixel, with the inside to the right."""
    padded = np.pad(mask, 1).astype(np.int8)
    across, down = np.diff(padded, axis=0), np.diff(padded, axis=1)
    steps: dict[Point, list[Point]] = {}
    for y, x in np.argwhere(across == 1).tolist():  # inside below
        steps.setdefault((column + x - 1, row + y), []).append((1, 0))
    for y, x in np.argwhere(across == -1).tolist():  # inside above
        steps.setdefault((column + x, row + y), []).append((-1, 0))
    for y, x in np.argwhere(down == 1).tolist():  # inside to the east
        steps.setdefault((column + x, row + y), []).append((0, -1))
    for y, x in np.argwhere(down == -1).tolist():  # inside to the west
        steps.setdefault((column + x, row + y - 1), []).append((0, 1))
    while steps:
        start = point = next(iter(steps))
        step = steps[start][0]
        walk = []
        while True:
            walk.append(point)
            there = steps[point]
            # where two pixels meet in a corner, there are two ways on: stay with this one
            step = _RIGHT[step] if _RIGHT[step] in there else step if step in there else there[0]
            there.remove(step)
            if not there:
                del steps[point]
            point = (point[0] + step[0], point[1] + step[1])
            if point == start:
                break
        yield walk


def _simple(walk: Ring) -> Iterator[Ring]:
    """A closed walk, parted wherever it comes to a point again."""
    path: Ring = []
    place: dict[Point, int] = {}
    for point in walk:
        if point in place:
            begin = place[point]
            yield path[begin:]
            for left in path[begin + 1 :]:
                del place[left]
            del path[begin + 1 :]
        else:
            place[point] = len(path)
            path.append(point)
    yield path


def _area(ring: Ring) -> int:
    """Twice the area, signed: above 0 where the inside lies to the right of the walk."""
    points = np.array(ring)
    x, y = points.T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def _corners(ring: Ring) -> Ring:
    """A ring without the points on straight edges, closed."""
    points = np.array(ring)
    after, before = np.roll(points, -1, axis=0) - points, points - np.roll(points, 1, axis=0)
    kept = [(int(x), int(y)) for x, y in points[(after != before).any(axis=1)]]
    return [*kept, kept[0]]
