"""What an evaluation of masks found: every field's scores, and their means over fields."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..metrics.base import MaskMetric, Ratio
from ..metrics.distance import Distance
from ..metrics.masks import PAPER

Values = NDArray[np.float64]
RESAMPLES = 2000
"""Draws of fields, with replacement, behind an interval."""
_DRAWS = 10**6
FEW = 6
"""So many metrics have room in a row of a table."""


@dataclass(frozen=True)
class FieldScores:
    """Of one field.

    Attributes
    ----------
    id, group : str
        The group is empty where fields are not grouped.
    against : tuple of dict metric -> Ratio
        The prediction against each annotator.
    agreement : tuple of dict metric -> float
        Of each pair of annotators, in the order of `Evaluation.pairs`: the mean of one against the other and
        the other against the one.
    """

    id: str
    group: str
    against: tuple[dict[str, Ratio], ...]
    agreement: tuple[dict[str, float], ...]


@dataclass(frozen=True)
class Summary:
    """Of one metric over fields.

    Attributes
    ----------
    mean, sd : float
        Of the fields that have a value; the deviation is that of a sample (n - 1). A field that was compared
        with several annotators counts once, with the mean over them.
    low, high : float
        Ends of the 95 % interval of the mean, by bootstrap of fields (percentiles). NaN below two fields.
    pooled : float
        All fields as if they were one; the mean over annotators. NaN where it makes no sense.
    fields : int
        That have a value.
    """

    mean: float
    sd: float
    low: float
    high: float
    pooled: float
    fields: int


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_segmentation` found.

    Attributes
    ----------
    predicted : Path
    truths : tuple of Path
    annotators : tuple of str
        The names of the truths' folders, made different where they are alike.
    metrics : dict of name -> MaskMetric
    distance : Distance
        That centres are matched within.
    region : str or None
        The kind of mask that centres must lie in.
    fields : list of FieldScores
    """

    predicted: Path
    truths: tuple[Path, ...]
    annotators: tuple[str, ...]
    metrics: dict[str, MaskMetric]
    distance: Distance
    region: str | None
    fields: list[FieldScores]
    _found: dict[tuple[object, ...], Summary] = field(default_factory=dict, init=False, repr=False)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of annotators, as positions in `annotators`."""
        return list(combinations(range(len(self.annotators)), 2))

    @property
    def groups(self) -> list[str]:
        """In alphabetical order; empty where fields are not grouped."""
        return sorted({field.group for field in self.fields} - {""})

    @property
    def main_metrics(self) -> tuple[str, ...]:
        """What is shown where there is no room for all: those of Table 1 of the MSDM paper."""
        paper = tuple(name for name in PAPER if name in self.metrics)
        return tuple(self.metrics) if len(self.metrics) <= FEW or not paper else paper

    def values(self, metric: str, group: str | None = None, annotator: int | None = None) -> Values:
        """A value per field, NaN where it has none; the mean over annotators where none is named."""
        return np.array(
            [
                mean([a[metric].value for k, a in enumerate(f.against) if annotator in (None, k)])
                for f in self.fields
                if group in (None, f.group)
            ]
        )

    def agreement(self, metric: str, pair: int | None = None) -> Values:
        """A value per field of the agreement among annotators; the mean over pairs where none is named."""
        return np.array(
            [mean([a[metric] for k, a in enumerate(f.agreement) if pair in (None, k)]) for f in self.fields]
        )

    def summary(self, metric: str, group: str | None = None, annotator: int | None = None) -> Summary:
        """Over the fields of a group, or all; against one annotator, or the mean over them."""
        asked = (metric, group, annotator)
        if asked not in self._found:
            self._found[asked] = self._summary(*asked)
        return self._found[asked]

    def _summary(self, metric: str, group: str | None, annotator: int | None) -> Summary:
        fields = [f for f in self.fields if group in (None, f.group)]
        chosen = range(len(self.annotators)) if annotator is None else [annotator]
        pooled = mean([Ratio.pooled(f.against[k][metric] for f in fields) for k in chosen])
        return summarise(self.values(metric, group, annotator), pooled)

    def agreement_summary(self, metric: str, pair: int | None = None) -> Summary:
        """Of the agreement among annotators."""
        return summarise(self.agreement(metric, pair))


def summarise(values: Values, pooled: float = math.nan) -> Summary:
    """Mean, deviation and interval over fields.

    Parameters
    ----------
    values : ndarray (N,) float64
        NaN where a field has no value.
    pooled : float

    Returns
    -------
    Summary
        The same values give the same interval: the draws are from a fixed seed.
    """
    known = values[~np.isnan(values)]
    count = len(known)
    if not count:
        return Summary(math.nan, math.nan, math.nan, math.nan, pooled, 0)
    if count == 1:
        return Summary(float(known[0]), math.nan, math.nan, math.nan, pooled, 1)
    rng = np.random.default_rng(0)
    # a few resamples at once: many fields must not fill the memory
    part = max(1, _DRAWS // count)
    sizes = [min(part, RESAMPLES - done) for done in range(0, RESAMPLES, part)]
    means = np.concatenate([known[rng.integers(0, count, (size, count))].mean(1) for size in sizes])
    low, high = np.quantile(means, (0.025, 0.975))
    return Summary(float(known.mean()), float(known.std(ddof=1)), float(low), float(high), pooled, count)


def mean(values: Sequence[float]) -> float:
    """The mean of the values that are not NaN; NaN where there are none."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
