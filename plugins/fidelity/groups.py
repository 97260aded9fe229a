"""Distances between groups of real and of synthetic fields: the matrix, its test, and its floor.

This is the paper's measurement of conditioning (MSDM, section 5 and figure 3): synthetic fields of an assay
and an indication should lie nearer to the real ones of the same pair than to others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError, did_you_mean
from ...core.seeds import rng_for
from ..metrics.base import FeatureMetric, Features
from ..metrics.transport import WASSERSTEIN, ground_cost, transport_cost

Progress = Callable[[int, int], None]

ALL = "all"
"""The only group where fields are not grouped."""
NONE = "(empty)"
MOST_COSTS = 40_000_000
"""Distances of fields that are held at once, 8 bytes each."""
TESTED = 60
"""Fields of a group that the permutation test takes at most."""
TEST_BUDGET = 100_000_000
"""Distances of fields that the permutations go through in all; fewer permutations where there are many."""
LEAST_PERMUTATIONS = 99


@dataclass(frozen=True)
class GroupMatrix:
    """Distances between groups.

    Attributes
    ----------
    distance : str
        The metric's name.
    real, synthetic : tuple of str
        Groups, in the order of rows and columns: those that both have first, then the others, by name.
    real_sizes, synthetic_sizes : tuple of int
        Fields of each.
    values : ndarray (len(real), len(synthetic)) float64
    drawn : int or None
        Fields of a group that were drawn where it has more; None where all were taken.
    """

    distance: str
    real: tuple[str, ...]
    synthetic: tuple[str, ...]
    real_sizes: tuple[int, ...]
    synthetic_sizes: tuple[int, ...]
    values: NDArray[np.float64]
    drawn: int | None = None

    @property
    def matching(self) -> NDArray[np.float64]:
        """Distances of the groups that both have, each to itself."""
        return self.values[self._same()]

    @property
    def other(self) -> NDArray[np.float64]:
        """Distances of groups to other groups."""
        return self.values[~self._same()]

    def _same(self) -> NDArray[np.bool_]:
        return np.array([[r == s for s in self.synthetic] for r in self.real], bool)


@dataclass(frozen=True)
class Matching:
    """Whether synthetic groups lie nearer to their own real group than to others.

    Attributes
    ----------
    mean, deviation : float
        Of the distances of matching groups; the deviation over n - 1, NaN of one value.
    other_mean, other_deviation : float
        Of those of groups that do not match; NaN where there are none.
    p : float or None
        Of the permutation test that labels of synthetic fields say nothing about the fields: the share of
        relabellings, the real one counted in, whose ``other_mean - mean`` is as large. None where there are
        not two groups.
    permutations : int
        Relabellings that were drawn; p is at least 1 / (permutations + 1).
    """

    mean: float
    deviation: float
    other_mean: float
    other_deviation: float
    p: float | None
    permutations: int


@dataclass(frozen=True)
class GroupFloor:
    """What the distance of a group is between two samples of its own real fields.

    Attributes
    ----------
    group : str
    size : int
        Fields of each sample: half of the real ones, or as many as there are synthetic ones.
    floor, floor_deviation : float
        Mean and deviation over random halves of the real fields: what a perfect generator reaches.
    synthetic, synthetic_deviation : float or None
        Between samples of real and of synthetic fields of the same size, so that the finite size adds the
        same to both; None where there are no synthetic fields of the group.
    """

    group: str
    size: int
    floor: float
    floor_deviation: float
    synthetic: float | None
    synthetic_deviation: float | None

    @property
    def ratio(self) -> float | None:
        """Synthetic over floor: 1 is as good as real, and values above say how many times worse."""
        return None if self.synthetic is None or not self.floor else self.synthetic / self.floor


def group_labels(rows: Sequence[Mapping[str, str]], columns: Sequence[str], what: str) -> list[str]:
    """The group of each field: the values of the columns, joined by ``/``.

    Raises
    ------
    MsdmError
        The manifest of `what` has no such column.
    """
    for column in columns:
        if column not in rows[0]:
            raise MsdmError(f"{what} has no column {column!r} to group by; {did_you_mean(column, rows[0])}")
    return [" / ".join(row.get(c, "").strip() or NONE for c in columns) if columns else ALL for row in rows]


@dataclass(frozen=True)
class _Side:
    """Rows of features by group."""

    features: Features
    members: dict[str, NDArray[np.intp]]

    @staticmethod
    def of(features: Features, labels: Sequence[str], most: int, what: str, seed: int) -> "_Side":
        groups: dict[str, NDArray[np.intp]] = {}
        every = np.array(labels)
        for name in sorted(set(labels)):
            rows = np.flatnonzero(every == name)
            if len(rows) > most:
                rows = np.sort(rng_for(seed, "fidelity group", what, name).choice(rows, most, replace=False))
            groups[name] = rows
        return _Side(features, groups)


class GroupDistances:
    """Distances of groups of fields; those of fields are computed once where the metric is W1.

    Parameters
    ----------
    real, synthetic : ndarray (N, D), (M, D)
    real_labels, synthetic_labels : sequence of str
        The group of each row.
    metric : FeatureMetric
    seed : int
    """

    def __init__(
        self,
        real: Features,
        synthetic: Features,
        real_labels: Sequence[str],
        synthetic_labels: Sequence[str],
        metric: FeatureMetric = WASSERSTEIN,
        seed: int = 0,
    ) -> None:
        cells = len(set(real_labels)) * len(set(synthetic_labels))
        self.most = int(min(metric.most or 10**9, (MOST_COSTS / cells) ** 0.5))
        self._labels = (list(real_labels), list(synthetic_labels))
        self._metric, self._seed = metric, seed
        self._real = _Side.of(real, real_labels, self.most, "real", seed)
        self._synthetic = _Side.of(synthetic, synthetic_labels, self.most, "synthetic", seed)
        both = [name for name in self._real.members if name in self._synthetic.members]
        self._rows = both + [name for name in self._real.members if name not in both]
        self._columns = both + [name for name in self._synthetic.members if name not in both]
        self._both = both

    def matrix(self, on_progress: Progress | None = None) -> GroupMatrix:
        """The distance of every real group to every synthetic one."""
        values = np.empty((len(self._rows), len(self._columns)))
        sizes = [tuple(labels.count(name) for name in names) for labels, names in (
            (self._labels[0], self._rows), (self._labels[1], self._columns),
        )]  # fmt: skip
        done = 0
        for i, row in enumerate(self._rows):
            for j, column in enumerate(self._columns):
                real = self._real.features[self._real.members[row]]
                synthetic = self._synthetic.features[self._synthetic.members[column]]
                values[i, j] = self._metric.compute(real, synthetic, self._rng(row, column))
                done += 1
                if on_progress is not None:
                    on_progress(done, values.size)
        drawn = self.most if max(*sizes[0], *sizes[1]) > self.most else None
        return GroupMatrix(
            self._metric.name, tuple(self._rows), tuple(self._columns), sizes[0], sizes[1], values, drawn
        )

    def matching(
        self, matrix: GroupMatrix, permutations: int = 999, on_progress: Progress | None = None
    ) -> Matching | None:
        """Matching against other groups; None where no group is in both sets."""
        if not self._both:
            return None
        mean, deviation = _spread(matrix.matching)
        other_mean, other_deviation = _spread(matrix.other)
        p, drawn = None, 0
        if len(self._rows) > 1 and len(self._columns) > 1:
            p, drawn = self._permuted(permutations, on_progress)
        return Matching(mean, deviation, other_mean, other_deviation, p, drawn)

    def floors(self, repeats: int = 20, on_progress: Progress | None = None) -> list[GroupFloor]:
        """The floor of every real group of four fields or more."""
        found = []
        for i, name in enumerate(self._rows):
            real = self._real.features[self._real.members[name]]
            members = self._synthetic.members.get(name)
            synthetic = None if members is None else self._synthetic.features[members]
            half = floor(real, synthetic, self._metric, repeats, self._rng("floor", name))
            if half is not None:
                found.append(GroupFloor(name, *half))
            if on_progress is not None:
                on_progress(i + 1, len(self._rows))
        return found

    def _permuted(self, permutations: int, on_progress: Progress | None) -> tuple[float, int]:
        rng = rng_for(self._seed, "fidelity permutations")
        rows = [_some(self._real.members[name], rng) for name in self._rows]
        columns = [_some(self._synthetic.members[name], rng) for name in self._columns]
        real, synthetic = np.concatenate(rows), np.concatenate(columns)
        permutations = max(
            min(permutations, LEAST_PERMUTATIONS),
            min(permutations, TEST_BUDGET // (len(real) * len(synthetic))),
        )
        between = self._between(real, synthetic)
        edges = np.cumsum([0, *map(len, rows)])
        cuts = np.cumsum([0, *map(len, columns)])
        same = np.array([[r == s for s in self._columns] for r in self._rows], bool)

        def statistic(order: NDArray[np.intp]) -> float:
            values = np.array([
                [between(slice(a, b), order[c:d]) for c, d in zip(cuts, cuts[1:], strict=False)]
                for a, b in zip(edges, edges[1:], strict=False)
            ])  # fmt: skip
            return float(values[~same].mean() - values[same].mean())

        observed = statistic(np.arange(len(synthetic)))
        reached = 0
        for done in range(permutations):
            # equal but for the order of a sum counts as equal
            reached += statistic(rng.permutation(len(synthetic))) >= observed - 1e-9 * abs(observed)
            if on_progress is not None:
                on_progress(done + 1, permutations)
        return (reached + 1) / (permutations + 1), permutations

    def _between(
        self, real: NDArray[np.intp], synthetic: NDArray[np.intp]
    ) -> Callable[[slice, NDArray[np.intp]], float]:
        a, b = self._real.features[real], self._synthetic.features[synthetic]
        if self._metric is WASSERSTEIN:
            cost = ground_cost(a, b)
            return lambda rows, columns: transport_cost(cost[rows][:, columns])
        # the same directions in every relabelling: they are no part of what is tested
        return lambda rows, columns: self._metric.compute(a[rows], b[columns], self._rng("permuted"))

    def _rng(self, *keys: str) -> np.random.Generator:
        return rng_for(self._seed, "fidelity", self._metric.name, *keys)


def floor(
    real: Features,
    synthetic: Features | None,
    metric: FeatureMetric,
    repeats: int,
    rng: np.random.Generator,
) -> tuple[int, float, float, float | None, float | None] | None:
    """The distance of two samples of real fields, and of real and synthetic ones of the same size.

    Parameters
    ----------
    real : ndarray (N, D)
    synthetic : ndarray (M, D), or None
    metric : FeatureMetric
    repeats : int
    rng : Generator

    Returns
    -------
    size, floor, deviation, synthetic, deviation
        See `GroupFloor`; None where the real set cannot be halved into two of two or more.
    """
    size = min(len(real) // 2, len(real) if synthetic is None else len(synthetic), metric.most or 10**9)
    if size < 2:
        return None
    halves, against = [], []
    try:
        for _ in range(repeats):
            order = rng.permutation(len(real))[: 2 * size]
            a, b = real[order[:size]], real[order[size:]]
            halves.append(metric.compute(a, b, rng))
            if synthetic is not None:
                drawn = synthetic[rng.permutation(len(synthetic))[:size]]
                against.append(metric.compute(a, drawn, rng))
    except MsdmError:  # too few rows for this metric
        return None
    mean, deviation = _spread(np.array(halves))
    return (size, mean, deviation, *(_spread(np.array(against)) if against else (None, None)))


def _some(members: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    return rng.permutation(members)[:TESTED]


def _spread(values: NDArray[Any]) -> tuple[float, float]:
    """Mean and standard deviation over n - 1; NaN where there are too few."""
    if not len(values):
        return float("nan"), float("nan")
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else float("nan")
