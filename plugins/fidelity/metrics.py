"""Figures of two whole sets of features, each beside the real-against-real floor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...core.errors import MsdmError
from ...core.seeds import rng_for
from ..host import Host, get_host
from ..metrics.base import FeatureMetric, Features
from ..metrics.kernel_distance import KID, kernel_distance
from .groups import floor

Progress = Callable[[int, int], None]
_Halves = tuple[int | None, float | None, float | None, float | None, float | None] | None


@dataclass(frozen=True)
class MetricResult:
    """One figure.

    Attributes
    ----------
    metric : FeatureMetric
    value : float or None
        Of all rows (of ``metric.most`` drawn ones); None where there are too few.
    low, high : float or None
        Approximate 95 % interval, of the kernel distance alone.
    size : int or None
        Rows of each sample of the following; None where the real set is too small to be halved.
    floor, floor_deviation : float or None
        Between random halves of the real set: mean and deviation over repeats.
    synthetic, synthetic_deviation : float or None
        Between such a half and as many synthetic rows. To be read against the floor: both are of one size.
    enough : bool
        Whether both sets have the rows that the figure needs.
    """

    metric: FeatureMetric
    value: float | None
    low: float | None
    high: float | None
    size: int | None
    floor: float | None
    floor_deviation: float | None
    synthetic: float | None
    synthetic_deviation: float | None
    enough: bool


_FIRST = ("wasserstein", "sliced_wasserstein", "marginal_wasserstein", "kid", "fid")


def feature_metrics(host: Host | None = None) -> dict[str, FeatureMetric]:
    """The metrics of features that plugins bring, by name; distances first."""
    host = host or get_host()
    names = host.names("metric")
    first = [name for name in _FIRST if name in names]
    loaded = {name: host.load("metric", name) for name in dict.fromkeys([*first, *names])}
    return {name: metric for name, metric in loaded.items() if isinstance(metric, FeatureMetric)}


def measure(
    real: Features,
    synthetic: Features,
    metrics: Sequence[FeatureMetric],
    *,
    repeats: int = 10,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> list[MetricResult]:
    """Every metric of two sets.

    Parameters
    ----------
    real, synthetic : ndarray (N, D), (M, D)
    metrics : sequence of FeatureMetric
    repeats : int
        Of the floor.
    seed : int
    on_progress : callable (done, total) or None
    """
    found = []
    for i, metric in enumerate(metrics):
        rng = rng_for(seed, "fidelity metric", metric.name)
        a, b = (
            rows if metric.most is None or len(rows) <= metric.most
            else rows[rng.choice(len(rows), metric.most, replace=False)]
            for rows in (real, synthetic)
        )  # fmt: skip
        try:
            value: float | None = metric.compute(a, b, rng)
        except MsdmError:  # too few rows
            value = None
        low = high = None
        if metric is KID and value is not None:
            interval = kernel_distance(a, b)
            low, high = interval.low, interval.high
        halves: _Halves = floor(real, synthetic, metric, repeats, rng)
        if halves is None:
            halves = (None, None, None, None, None)
        enough = min(len(real), len(synthetic)) >= metric.least
        found.append(MetricResult(metric, value, low, high, *halves, enough))
        if on_progress is not None:
            on_progress(i + 1, len(metrics))
    return found
