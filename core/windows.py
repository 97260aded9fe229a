"""Windows that cover a field, overlap, and are averaged: where they lie and what each weighs at a pixel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import MsdmError

QUANTA = 2**12
"""Weights along an axis are multiples of 1 / QUANTA, so that products of two are exact in fp32."""


@dataclass(frozen=True)
class Window:
    """A rectangle of a field, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def at(self) -> tuple[slice, slice]:
        """Its rows and its columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def check_overlap(window: int, overlap: int, multiple: int = 1, stride: int = 1) -> None:
    """Check a window's side and overlap.

    Raises
    ------
    MsdmError
        The side is no multiple of what the backbone needs, or the overlap is none of a window, or none of the
        stride of latents.
    """
    if window < 1 or window % multiple:
        raise MsdmError(
            f"a window of {window} pixels is not a multiple of {multiple}, which the backbone needs; take "
            f"{max(1, round(window / multiple)) * multiple}"
        )
    if not 0 <= overlap < window:
        raise MsdmError(
            f"windows of {window} pixels cannot overlap by {overlap}; legal: 0 to {window - 1}, such as "
            f"{window // 4}"
        )
    if overlap % stride:
        raise MsdmError(
            f"windows overlap by {overlap} pixels, which is not a multiple of {stride}, the stride of the "
            f"autoencoder; take {overlap - overlap % stride}"
        )


def starts(length: int, window: int, overlap: int) -> list[int]:
    """Where windows begin along an axis; the last one ends where the axis ends.

    Parameters
    ----------
    length, window, overlap : int
        Pixels; neighbours overlap by at least `overlap`. A window is no longer than the axis.

    Examples
    --------
    >>> starts(100, 40, 10), starts(30, 40, 10)
    ([0, 30, 60], [0])
    """
    if length <= window:
        return [0]
    step = window - overlap
    return [*range(0, length - window, step), length - window]


def axis_weights(length: int, window: int, overlap: int) -> NDArray[np.float32]:
    """What each window weighs along an axis: a raised cosine over each overlap, flat elsewhere.

    Parameters
    ----------
    length, window, overlap : int
        As `starts` takes them.

    Returns
    -------
    ndarray (windows, min(window, length)) float32
        Multiples of 1 / `QUANTA`. At every pixel of the axis those of the windows that cover it add up to 1,
        exactly and in any order; where one alone does, its weight is 1. Every weight is above 0 up to where
        rounding to the multiples takes it away.
    """
    begin = starts(length, window, overlap)
    side = min(window, length)
    # half a pixel in, so that no weight is 0 at a window's border
    ramp = np.ones(side)
    reach = min(overlap, side)
    rise = np.sin(0.5 * np.pi * (np.arange(reach) + 0.5) / max(reach, 1)) ** 2
    ramp[:reach] = np.minimum(ramp[:reach], rise)
    ramp[side - reach :] = np.minimum(ramp[side - reach :], rise[::-1])
    table = np.zeros((len(begin), length))
    for row, start in zip(table, begin, strict=True):
        row[start : start + side] = ramp
    quanta = np.floor(table / table.sum(axis=0) * QUANTA)
    # the heaviest window takes what rounding left over
    quanta[quanta.argmax(axis=0), np.arange(length)] += QUANTA - quanta.sum(axis=0)
    weights = (quanta / QUANTA).astype(np.float32)
    return np.stack([row[start : start + side] for row, start in zip(weights, begin, strict=True)])


@dataclass(frozen=True)
class Grid:
    """The windows of a field, row by row.

    Parameters
    ----------
    size : (int, int)
        Height and width of the field, multiples of what the backbone needs.
    window : int
        Side of a window; along an axis that is shorter it is as long as the axis.
    overlap : int
        Pixels by which neighbours overlap at least.
    """

    size: tuple[int, int]
    window: int
    overlap: int

    def coarser(self, stride: int) -> "Grid":
        """The same windows on a grid whose places are squares of `stride` pixels, which divides all sides."""
        height, width = self.size
        return Grid((height // stride, width // stride), self.window // stride, self.overlap // stride)

    @property
    def side(self) -> tuple[int, int]:
        """Height and width of every window."""
        return min(self.window, self.size[0]), min(self.window, self.size[1])

    @cached_property
    def windows(self) -> Sequence[Window]:
        """In rows from the top, each from the left."""
        rows, columns = (starts(length, self.window, self.overlap) for length in self.size)
        return [Window(top, left, *self.side) for top in rows for left in columns]

    @cached_property
    def _weights(self) -> tuple[Tensor, Tensor]:
        down, across = (
            torch.from_numpy(axis_weights(length, self.window, self.overlap)) for length in self.size
        )
        return down, across

    def weights(self, index: int) -> Tensor:
        """Of window `index` (height, width) float32; over all windows they add up to 1 exactly."""
        down, across = self._weights
        row, column = divmod(index, len(across))
        return down[row][:, None] * across[column]

    def groups(self, count: int) -> Iterator[range]:
        """The windows' indices, `count` at a time."""
        for start in range(0, len(self.windows), count):
            yield range(start, min(start + count, len(self.windows)))
