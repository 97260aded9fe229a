"""Predicted and true masks of one field, with what several metrics need of them found once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError, did_you_mean
from ...core.sample import Labels
from .matching import Indices, Numbers, best_matching, match_points

Masks = Mapping[str, Labels]

RADIUS = 6.0
"""Centres at this distance or nearer, in pixels, can be one instance: 3 µm at 20x (0.5 µm per pixel)."""
_DENSE = 2**22


class Instances:
    """The instances of a label mask, numbered from 0 without gaps.

    They are in the order of their first pixels, row by row, so that no figure depends on what the labels are,
    not even where two matchings are equally good.

    Parameters
    ----------
    labels : ndarray (H, W) int32
        0 is background; in any order and with gaps.

    Attributes
    ----------
    index : ndarray (H, W) int32
        Each pixel's instance, -1 on background.
    labels : ndarray (N,) int
        The label of each instance.

    Raises
    ------
    MsdmError
        The labels are not integers of shape (H, W), or one is negative.
    """

    index: NDArray[np.int32]
    labels: NDArray[np.integer[Any]]

    def __init__(self, labels: Labels) -> None:
        if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
            raise MsdmError(
                f"labels are integers of shape (H, W), and these are {labels.dtype} of shape {labels.shape}; "
                f"give one label mask"
            )
        low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
        if low < 0:
            raise MsdmError(f"labels are 0 for background and above 0 for instances, and one is {low}")
        if high < _DENSE:
            there = np.bincount(labels.ravel(), minlength=1) > 0
            there[0] = False
            values = np.flatnonzero(there)
            # -1 at the background, and 0, 1, 2 ... at the labels that are there
            index = (np.cumsum(there) * there - 1).astype(np.int32)[labels]
        else:
            values, inverse = np.unique(labels, return_inverse=True)
            index = inverse.reshape(labels.shape).astype(np.int32) - np.int32(values[0] == 0)
            values = values[values > 0]
        inside = np.flatnonzero(index >= 0)[::-1]
        first = np.empty(len(values), np.int64)
        first[index.ravel()[inside]] = inside  # of several values, the last that is written stays
        order = np.argsort(first)
        rank = np.full(len(values) + 1, -1, np.int32)
        rank[order] = np.arange(len(values))
        self.labels = values[order]
        self.index = rank[index]  # -1, the background, takes the last

    def __len__(self) -> int:
        return len(self.labels)

    def count(self, inside: NDArray[np.bool_] | None = None) -> Numbers:
        """Pixels of each instance, (N,); where `inside` (H, W) is given, of those pixels alone."""
        index = self.index if inside is None else self.index[inside]
        return np.bincount(index.ravel() + 1, minlength=len(self) + 1)[1:].astype(np.float64)

    @cached_property
    def areas(self) -> Numbers:
        """Pixels of each instance, (N,)."""
        return self.count()

    @cached_property
    def centres(self) -> Numbers:
        """Row and column of each instance's centroid, the mean of its pixels' positions, (N, 2)."""
        flat = np.flatnonzero(self.index >= 0)
        of = self.index.ravel()[flat]
        places = np.divmod(flat, self.index.shape[1])
        sums = [np.bincount(of, weights=place, minlength=len(self)) for place in places]
        return np.stack(sums, axis=1) / self.areas[:, None]

    @cached_property
    def boundary(self) -> NDArray[np.bool_]:
        """Pixels of an instance that its erosion by a cross of 3 x 3 takes away, (H, W).

        These have a 4-neighbour that is of another instance, background, or outside the field.
        """
        padded = np.pad(self.index, 1, constant_values=-1)
        inner = np.ones(self.index.shape, bool)
        for row, column in ((0, 1), (2, 1), (1, 0), (1, 2)):
            height, width = self.index.shape
            inner &= padded[row : row + height, column : column + width] == self.index
        return (self.index >= 0) & ~inner


@dataclass(frozen=True)
class KindComparison:
    """The instances of one kind that were predicted, and those that are there.

    Parameters
    ----------
    predicted, true : Instances
        Of one height and width.
    radius : float
        Of `match_points`, in pixels.
    """

    predicted: Instances
    true: Instances
    radius: float

    @cached_property
    def pairs(self) -> Indices:
        """Predicted and true instances that are one by their centres, (K, 2): see `match_points`."""
        return match_points(self.predicted.centres, self.true.centres, self.radius)

    @cached_property
    def overlaps(self) -> tuple[Indices, Indices, Numbers]:
        """Instances that share pixels: predicted, true, and how many pixels, (P,) each."""
        width = len(self.true)
        both = (self.predicted.index >= 0) & (self.true.index >= 0)
        joint = self.predicted.index[both].astype(np.int64) * width + self.true.index[both]
        if len(self.predicted) * width <= _DENSE:
            counts = np.bincount(joint)
            keys = np.flatnonzero(counts)
            shared = counts[keys]
        else:
            keys, shared = np.unique(joint, return_counts=True)
        return keys // max(width, 1), keys % max(width, 1), shared.astype(np.float64)

    @cached_property
    def unions(self) -> Numbers:
        """Pixels of either instance, for each of `overlaps`, (P,)."""
        predicted, true, shared = self.overlaps
        return self.predicted.areas[predicted] + self.true.areas[true] - shared

    @cached_property
    def ious(self) -> Numbers:
        """Intersection over union of each of `overlaps`, (P,)."""
        return self.overlaps[2] / self.unions

    @cached_property
    def best_overlaps(self) -> Indices:
        """The Hungarian matching by overlap: positions in `overlaps` with the largest sum of IoU, (K,)."""
        predicted, true, _ = self.overlaps
        return best_matching(predicted, true, self.ious, (len(self.predicted), len(self.true)))

    def pair_maps(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The position in `pairs` of each pixel's predicted and true instance, -1 for none, (H, W) each."""
        maps = []
        for side, instances in enumerate((self.predicted, self.true)):
            of = np.full(len(instances) + 1, -1)
            of[self.pairs[:, side]] = np.arange(len(self.pairs))
            maps.append(of[instances.index])  # -1, the background, takes the last
        return maps[0], maps[1]


@dataclass(frozen=True)
class Comparison:
    """Predicted and true masks of one field.

    Parameters
    ----------
    predicted, true : mapping kind -> ndarray (H, W) int32
        Instances, 0 is background. Kinds that only one of them has are left out.
    radius : float
        Centres at this distance or nearer, in pixels, can be one instance.

    Raises
    ------
    MsdmError
        The masks differ in size, are no label masks, or the radius is not a number of at least 0.
    """

    predicted: Masks
    true: Masks
    radius: float = RADIUS
    _found: dict[str, KindComparison] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (np.isfinite(self.radius) and self.radius >= 0):
            raise MsdmError(f"the distance between centres is at least 0 pixels, and not {self.radius}")
        sizes = {
            f"{whose} {kind}": labels.shape
            for whose, masks in (("predicted", self.predicted), ("true", self.true))
            for kind, labels in masks.items()
        }
        first = next(iter(sizes), "")
        for other, shape in sizes.items():
            if shape != sizes[first]:
                raise MsdmError(
                    f"the {first} mask is of shape {sizes[first]}, and the {other} mask of shape {shape}; "
                    f"masks of a field have one height and width"
                )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds that both have, in alphabetical order."""
        return tuple(sorted(self.predicted.keys() & self.true.keys()))

    def of(self, kind: str) -> KindComparison:
        """The instances of one kind.

        Raises
        ------
        MsdmError
            It is not among `kinds`, or its masks are no label masks.
        """
        if kind not in self._found:
            if kind not in self.kinds:
                raise MsdmError(f"no mask of kind {kind!r} on both sides; {did_you_mean(kind, self.kinds)}")
            both = Instances(self.predicted[kind]), Instances(self.true[kind])
            self._found[kind] = KindComparison(*both, self.radius)
        return self._found[kind]
