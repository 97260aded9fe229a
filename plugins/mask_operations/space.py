"""Free space: where a shape fits without meeting anything."""

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]
_TRIES = 64


class Space:
    """Which pixels of a field are taken.

    Parameters
    ----------
    taken : ndarray (H, W) bool
        Copied.
    """

    def __init__(self, taken: NDArray[np.bool_]) -> None:
        self._taken = np.array(taken, bool)

    @property
    def size(self) -> tuple[int, int]:
        return self._taken.shape[0], self._taken.shape[1]

    def set(self, footprint: NDArray[np.bool_], top: int, left: int, value: bool = True) -> None:
        """Take the pixels of a shape that lies wholly in the field, or with `value` False give them back."""
        height, width = footprint.shape
        self._taken[top : top + height, left : left + width][footprint] = value

    def fitting(self, footprint: NDArray[np.bool_], positions: Positions) -> Positions:
        """Those of `positions` (N, 2), top and left, where the shape lies in the field and on free pixels."""
        (height, width), (rows, columns) = footprint.shape, self.size
        room = (rows - height, columns - width)
        positions = np.asarray(positions[((positions >= 0) & (positions <= room)).all(1)])
        y, x = np.nonzero(footprint)
        flat = self._taken.ravel()
        offsets = (y * columns + x).astype(np.int64)
        # pixels far from each other first: few positions are left after the first ones
        offsets = offsets[np.random.Generator(np.random.PCG64(0)).permutation(len(offsets))]
        starts = positions[:, 0] * columns + positions[:, 1]
        if len(starts) * len(offsets) <= 2**18:
            return np.asarray(positions[~flat[starts[:, None] + offsets].any(1)])
        left = np.arange(len(starts))
        for offset in offsets:
            left = left[~flat[starts[left] + offset]]
            if not left.size:
                break
        return np.asarray(positions[left])

    def find(
        self,
        footprint: NDArray[np.bool_],
        rng: np.random.Generator,
        rows: tuple[int, int] | None = None,
        columns: tuple[int, int] | None = None,
    ) -> tuple[int, int] | None:
        """A place for a shape, drawn uniformly from all where it fits.

        Parameters
        ----------
        footprint : ndarray (h, w) bool
        rng : numpy.random.Generator
        rows, columns : (int, int) or None
            First and last legal row of its upper left corner, and columns; None is the whole field.

        Returns
        -------
        (top, left) or None
            None where it fits nowhere: every place has been looked at then.
        """
        rows = rows or (0, self.size[0] - footprint.shape[0])
        columns = columns or (0, self.size[1] - footprint.shape[1])
        if rows[0] > rows[1] or columns[0] > columns[1]:
            return None
        tries = np.stack([rng.integers(a, b + 1, _TRIES) for a, b in (rows, columns)], 1)
        found = self.fitting(footprint, tries)
        if not len(found):
            grid = np.indices((rows[1] - rows[0] + 1, columns[1] - columns[0] + 1)).reshape(2, -1).T
            found = self.fitting(footprint, grid + np.array([rows[0], columns[0]]))
            if not len(found):
                return None
            found = found[[int(rng.integers(len(found)))]]
        return int(found[0, 0]), int(found[0, 1])
