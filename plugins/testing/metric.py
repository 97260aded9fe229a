"""What every metric owes those who compare with it, whoever wrote it."""

import math
from typing import Any

import numpy as np

from ...core.sample import Labels
from ..metrics.base import FeatureMetric, MaskMetric, Ratio
from ..metrics.comparison import Comparison
from .case import Conformance
from .fields import painted

SIZE = (40, 60)
ROWS = 24


class MetricConformance(Conformance):
    """The checks of a metric: of masks, or of features."""

    kind = "metric"

    def test_declares_what_it_is(self) -> None:
        metric = self.load()
        self.check(
            isinstance(metric, MaskMetric | FeatureMetric), "is neither a MaskMetric nor a FeatureMetric"
        )
        self.check(
            metric.name == self.plugin, f"calls itself {metric.name!r}; tables go by the plugin's name"
        )
        self.check(metric.title.strip(), "has no title")
        self.check(metric.better in ("higher", "lower"), f"better is {metric.better!r}; legal: higher, lower")

    # --- masks ----------------------------------------------------------------------------------------------

    def ratio(self, predicted: dict[str, Labels], true: dict[str, Labels]) -> Ratio:
        return self.load().compute(Comparison(predicted, true))  # type: ignore[no-any-return]

    def test_masks_that_agree_are_best(self) -> None:
        metric = self.load()
        if not isinstance(metric, MaskMetric):
            return
        true = masks()
        worse = {kind: np.roll(labels, 3, 1) for kind, labels in true.items()}
        best, off = (self.ratio(p, true).value for p in (true, worse))
        self.check(math.isfinite(best), f"of masks that agree it is {best}")
        ordered = best >= off if metric.better == "higher" else best <= off
        self.check(ordered or math.isnan(off), f"masks that agree have {best}, shifted ones {off}")
        renumbered = {k: np.where(v > 0, 100 - v, 0).astype(np.int32) for k, v in true.items()}
        again = self.ratio(worse, renumbered).value
        self.check(math.isclose(again, off, abs_tol=1e-9) or math.isnan(off), "labels' numbers matter")
        twice = self.ratio(worse, renumbered).value
        self.check(again == twice or math.isnan(again), "it is another the second time")

    def test_masks_without_instances_have_a_ratio(self) -> None:
        if not isinstance(self.load(), MaskMetric):
            return
        true = masks()
        empty = {k: v * 0 for k, v in true.items()}
        for predicted, given in ((empty, true), (true, empty), (empty, empty)):
            ratio = self.ratio(predicted, given)
            finite = math.isfinite(ratio.top) and math.isfinite(ratio.bottom)
            self.check(isinstance(ratio, Ratio) and finite, f"of masks without instances it is {ratio}")

    # --- features -------------------------------------------------------------------------------------------

    def value(self, a: Any, b: Any, seed: int = 0) -> float:
        return float(self.load().compute(a, b, np.random.default_rng(seed)))

    def test_features_that_are_alike_are_nearer(self) -> None:
        metric = self.load()
        if not isinstance(metric, FeatureMetric):
            return
        rng = np.random.default_rng(0)
        real, alike = (rng.normal(size=(ROWS, 4)).astype(np.float32) for _ in range(2))
        kept = real.copy()
        far = (alike + 20).astype(np.float32)
        near, away = self.value(real, alike), self.value(real, far)
        self.check(math.isfinite(near) and math.isfinite(away), f"it gives {near} and {away}")
        ordered = near >= away if metric.better == "higher" else near <= away
        self.check(ordered, f"features of one distribution have {near}, those of another {away}")
        self.check(near != away, f"features of one distribution and of another both have {near}")
        self.check(self.value(real, alike) == near, "the same seed gives another value")
        self.check(np.array_equal(real, kept), "`compute` changes the features that it is given")

    def test_features_of_unequal_numbers_are_taken(self) -> None:
        metric = self.load()
        if not isinstance(metric, FeatureMetric):
            return
        rng = np.random.default_rng(0)
        a, b = (rng.normal(size=(n, 3)).astype(np.float32) for n in (ROWS, ROWS + 9))
        self.check(math.isfinite(self.value(a, b)), "sets of unequal numbers give no finite value")
        self.check(metric.most is None or metric.most >= metric.least, "`most` is below `least`")


def masks() -> dict[str, Labels]:
    """Three cells with nuclei."""
    return painted(0, SIZE, cells=3)[1]
