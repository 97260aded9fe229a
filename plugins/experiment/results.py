"""Scores of all fields, and what is made of them: means over seeds, comparisons of arms."""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from ...core.errors import MsdmError
from ...core.files import write_text
from .plan import Plan
from .significance import Comparison, compare, correct

COLUMNS = ("test", "id", "arm", "seed", "kind", "metric", "annotator", "value")


@dataclass(frozen=True)
class Score:
    """One number: of a field, by a metric, against an annotator.

    Attributes
    ----------
    test, id : str
    arm : str
        Empty for the agreement of annotators.
    seed : int
    kind : str
        The kinds that the metric reads, by ``+``.
    metric : str
    annotator : str
        For the agreement, both by `` / ``.
    value : float
        NaN where the field has none.
    """

    test: str
    id: str
    arm: str
    seed: int
    kind: str
    metric: str
    annotator: str
    value: float


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write scores as CSV; a value that is not there is empty. Numbers are written in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for score in scores:
        value = "" if math.isnan(score.value) else repr(score.value)
        writer.writerow([*(getattr(score, name) for name in COLUMNS[:-1]), value])
    write_text(path, text.getvalue())


def read_scores(path: Path) -> list[Score]:
    """Read what `write_scores` wrote.

    Raises
    ------
    MsdmError
        The file is not of that form.
    """
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            return [
                Score(
                    row["test"],
                    row["id"],
                    row["arm"],
                    int(row["seed"]),
                    row["kind"],
                    row["metric"],
                    row["annotator"],
                    float(row["value"]) if row["value"] else math.nan,
                )
                for row in csv.DictReader(handle)
            ]
    except (OSError, KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:
        raise MsdmError(f"{path} does not hold scores ({error}); delete its folder and run again") from error


@dataclass(frozen=True)
class Figure:
    """Mean and deviation; NaN where there is nothing, the deviation also of one value."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """Of values; those that are NaN are left out. The deviation divides by n - 1."""
        known = [value for value in values if not math.isnan(value)]
        mean = math.fsum(known) / len(known) if known else math.nan
        return cls(mean, float(np.std(known, ddof=1)) if len(known) > 1 else math.nan)


@dataclass(frozen=True)
class Results:
    """All scores of an experiment.

    Attributes
    ----------
    plan : Plan
    scores : list of Score
        Of the arms.
    agreement : list of Score
        Of the annotators with each other; empty where there is one.
    """

    plan: Plan
    scores: list[Score]
    agreement: list[Score]

    def mean(self, arm: str, test: str, metric: str) -> Figure:
        """Over seeds; each seed's value is the mean over fields and annotators that have one."""
        by_seed: dict[int, list[float]] = defaultdict(list)
        for score in self.scores:
            if (score.arm, score.test, score.metric) == (arm, test, metric):
                by_seed[score.seed].append(score.value)
        return Figure.of([Figure.of(values).mean for _, values in sorted(by_seed.items())])

    def between_annotators(self, test: str, metric: str) -> Figure:
        """Over pairs of annotators; each pair's value is the mean over fields."""
        by_pair: dict[str, list[float]] = defaultdict(list)
        for score in self.agreement:
            if (score.test, score.metric) == (test, metric):
                by_pair[score.annotator].append(score.value)
        return Figure.of([Figure.of(values).mean for _, values in sorted(by_pair.items())])

    def by_field(self, arm: str, test: str, metric: str) -> dict[str, float]:
        """Of each field the mean over seeds and annotators."""
        found: dict[str, list[float]] = defaultdict(list)
        for score in self.scores:
            if (score.arm, score.test, score.metric) == (arm, test, metric):
                found[score.id].append(score.value)
        return {id: Figure.of(values).mean for id, values in found.items()}

    def comparisons(self, metrics: Sequence[str]) -> list[Comparison]:
        """Every pair of arms on every test set by every one of these metrics.

        Holm's correction is over all of them on one test set.
        """
        arms = [self.plan.baseline, *(name for name in self.plan.arms if name != self.plan.baseline)]
        found: list[Comparison] = []
        for test in self.plan.tests:
            family = []
            for metric in metrics:
                values: Mapping[str, Mapping[str, float]] = {
                    arm: self.by_field(arm, test, metric) for arm in arms
                }
                family += [compare(test, metric, a, b, values) for a, b in combinations(arms, 2)]
            found += correct(family)
        return found
