"""Instances drawn into label maps, one after the other: where two overlap, the later one wins."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError
from .base import Content, Picture
from .raster import Points, contour, polygon
from .runs import Runs, paint


class Canvas:
    """Label maps of one field.

    Parameters
    ----------
    size : (int, int)
        Height and width; known to be small enough for memory.
    where : str
        Names the file in a message.
    allocate : callable (count) -> ndarray (count,) int32, or None
        Makes the zeros of a label map; None makes them in memory.
    """

    def __init__(
        self,
        size: tuple[int, int],
        where: str,
        allocate: Callable[[int], NDArray[np.int32]] | None = None,
    ) -> None:
        self.size = size
        self.where = where
        # Column by column, as run-length codes go.
        self._allocate = allocate or _zeros
        self._columns: dict[str, NDArray[np.int32]] = {}
        self._classes: dict[str, dict[int, str]] = {}
        self._drawn: dict[str, set[int]] = {}

    def polygons(self, kind: str, label: int, parts: Sequence[Sequence[Points]]) -> None:
        """An instance of one or more polygons, each an outline and its holes, along pixel corners."""
        for rings in parts:
            for ring in rings:
                self._check(ring, label)
            self._stamp(kind, label, *polygon(rings, *self.size))

    def contour(self, kind: str, label: int, points: Points) -> None:
        """An instance given by the centres of its boundary pixels.

        Raises
        ------
        MsdmError
            One lies outside the picture.
        """
        self._check(points, label)
        if (points < 0).any() or (points >= np.array(self.size[::-1])).any() or (points % 1).any():
            raise MsdmError(
                f"{self.where}: the contour of instance {label} has a point that is no pixel of a "
                f"{self.size[0]} x {self.size[1]} picture; it is of another picture, or of a slide"
            )
        self._stamp(kind, label, *contour(points, *self.size))

    def runs(self, kind: str, label: int, runs: Runs) -> None:
        """An instance of runs along columns."""
        paint(self._map(kind, label), runs, label)

    def erase(self, rings: Sequence[Points]) -> None:
        """Take a polygon out of every instance drawn so far."""
        for ring in rings:
            self._check(ring, 0)
        (rows, columns), inside = polygon(rings, *self.size)
        for labels in self._columns.values():
            self._as_map(labels)[rows, columns][inside] = 0

    def name(self, kind: str, label: int, name: str) -> None:
        """Give an instance a class."""
        self._classes.setdefault(kind, {})[label] = name

    def content(self, image: Picture | None) -> Content:
        """The field, with what was drawn."""
        masks = {kind: np.ascontiguousarray(self._as_map(flat)) for kind, flat in self._columns.items()}
        lost = sum(len(labels - set(np.unique(masks[kind]).tolist())) for kind, labels in self._drawn.items())
        return Content(image, masks, self._classes, lost)

    @property
    def masks(self) -> dict[str, NDArray[np.int32]]:
        """What was drawn so far, (H, W) by kind: views of what `allocate` made."""
        return {kind: self._as_map(flat) for kind, flat in self._columns.items()}

    @property
    def classes(self) -> dict[str, dict[int, str]]:
        """The classes that were given so far."""
        return self._classes

    def _check(self, points: Points, label: int) -> None:
        if not np.isfinite(points).all():
            raise MsdmError(
                f"{self.where}: instance {label} has a coordinate that is no number; write it again"
            )

    def _map(self, kind: str, label: int) -> NDArray[np.int32]:
        self._drawn.setdefault(kind, set()).add(label)
        if kind not in self._columns:
            self._columns[kind] = self._allocate(self.size[0] * self.size[1])
        return self._columns[kind]

    def _as_map(self, flat: NDArray[np.int32]) -> NDArray[np.int32]:
        return flat.reshape(self.size[::-1]).T

    def _stamp(self, kind: str, label: int, window: tuple[slice, slice], inside: NDArray[np.bool_]) -> None:
        self._as_map(self._map(kind, label))[window][inside] = label


def _zeros(count: int) -> NDArray[np.int32]:
    return np.zeros(count, np.int32)


def rings(coordinates: object, where: str) -> list[Points]:
    """Rings of a polygon: lists of points of at least x and y.

    Raises
    ------
    MsdmError
        They are something else.
    """
    try:
        arrays = [np.array(ring, dtype=np.float64) for ring in coordinates]  # type: ignore[attr-defined]
        if all(ring.ndim == 2 and ring.shape[1] >= 2 for ring in arrays):
            return [ring[:, :2] for ring in arrays]
    except (TypeError, ValueError, OverflowError):
        pass
    raise MsdmError(f"{where} has coordinates that are no list of points x, y; export the file again")
