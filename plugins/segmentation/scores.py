"""Scores of predicted masks, by the metrics that plugins bring."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

from ...core.errors import MsdmError
from ..host import Host, get_host
from ..metrics.base import MaskMetric, Ratio
from ..metrics.comparison import RADIUS, Comparison, Masks


def score_fields(
    predicted: Iterable[Masks],
    true: Iterable[Masks],
    metrics: Sequence[str] | None = None,
    *,
    radius: float = RADIUS,
    host: Host | None = None,
) -> list[dict[str, float]]:
    """Score fields, one after the other: iterables that read when they are asked keep one field in memory.

    Parameters
    ----------
    predicted, true : iterables of mapping kind -> ndarray (H, W) int32
        Instance labels of the same fields in the same order, 0 is background. A mask may be empty.
    metrics : sequence of str or None
        Names, such as ``cell_f1``; None takes all.
    radius : float
        Largest distance of the centres of one instance, in pixels.

    Returns
    -------
    list of dict of metric -> float
        A dict per field, with every metric. NaN where the field has no value: a kind that it reads is not on
        both sides, or the figure is not defined (`msdm_kit.plugins.metrics.masks` has the rules).

    Raises
    ------
    MsdmError
        No such metric, fields that do not pair, or masks that do not fit each other.
    """
    chosen = mask_metrics(metrics, host)
    rows = []
    for p, t in zip_longest(predicted, true):
        if p is None or t is None:
            raise MsdmError("there are not as many predicted as true fields; give both of each field")
        rows.append({name: ratio.value for name, ratio in ratios(Comparison(p, t, radius), chosen).items()})
    return rows


def score_field(
    predicted: Masks,
    true: Masks,
    metrics: Sequence[str] | None = None,
    *,
    radius: float = RADIUS,
    host: Host | None = None,
) -> dict[str, float]:
    """Score one field: see `score_fields`."""
    return score_fields([predicted], [true], metrics, radius=radius, host=host)[0]


def mask_metrics(names: Sequence[str] | None = None, host: Host | None = None) -> dict[str, MaskMetric]:
    """Metrics of masks by name.

    Parameters
    ----------
    names : sequence of str or None
        None takes all: those of Table 1 of the MSDM paper, the other built-ins, and those of other packages
        in alphabetical order.
    host : Host or None
        None is the host of this process.

    Raises
    ------
    MsdmError
        No such metric, or it is one of features.
    """
    from ..metrics.masks import METRICS

    host = host or get_host()
    known = host.names("metric")
    builtin = [name for name in METRICS if name in known]
    wanted = names if names is not None else dict.fromkeys((*builtin, *known))
    found: dict[str, MaskMetric] = {}
    for name in wanted:
        metric = host.load("metric", name)
        if isinstance(metric, MaskMetric):
            found[name] = metric
        elif names is not None:
            raise MsdmError(f"metric {name!r} compares features of images, not masks; see msdm-kit plugins")
    return found


def ratios(comparison: Comparison, metrics: Mapping[str, MaskMetric]) -> dict[str, Ratio]:
    """Every metric of one field, as ratios, so that fields can be pooled; 0 / 0 where it has no value."""
    there = set(comparison.kinds)
    return {
        name: metric.compute(comparison) if there.issuperset(metric.kinds) else Ratio(0, 0)
        for name, metric in metrics.items()
    }
