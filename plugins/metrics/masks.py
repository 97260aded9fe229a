"""The built-in metrics of masks: detection of centres, outlines, areas, and the usual scores of instances.

There is one rule for empty masks: each figure is a ratio of two sums, and has no value (NaN) where the lower
one is 0. So with neither a predicted nor a true instance nothing has a value; with instances on one side
alone `f1`, `pq`, `dq`, `ap50`, `ap75`, `aji` and `aji_plus` are 0. `precision` has no value without a
prediction, `recall` none without a true instance; `dice`, `assd` and `sq` have none where nothing is matched.

`dice` and `assd` are of matched instances alone: who finds half of the cells, those well, has a high Dice.
They are to be read after `f1`, as the MSDM paper does (section 4.4).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .base import MaskMetric, Ratio
from .comparison import Comparison, Instances, KindComparison
from .matching import Indices, Numbers, best_matching

OF_A_KIND = ("cell", "nucleus")
"""Kinds for which the metrics of `_FAMILY` are built in."""


def centre_f1(of: KindComparison) -> Ratio:
    """F1 of the detection of centres: 2 TP / (2 TP + FP + FN); TP are the pairs of `KindComparison.pairs`."""
    return Ratio(2 * len(of.pairs), len(of.predicted) + len(of.true))


def centre_precision(of: KindComparison) -> Ratio:
    """Share of the predicted centres that are matched."""
    return Ratio(len(of.pairs), len(of.predicted))


def centre_recall(of: KindComparison) -> Ratio:
    """Share of the true centres that are matched."""
    return Ratio(len(of.pairs), len(of.true))


def dice(of: KindComparison, outside: tuple[Instances, Instances] | None = None) -> Ratio:
    """Mean Dice coefficient over pairs of instances, 2 |A and B| / (|A| + |B|).

    Parameters
    ----------
    of : KindComparison
        Its instances are matched by their centres.
    outside : (Instances, Instances) or None
        Instances, predicted and true, whose pixels are no part of those in `of`: nuclei, for cytoplasm. A
        pair of which nothing is left on either side does not count.
    """
    one, other = of.pair_maps()
    if outside is not None:
        one = np.where(outside[0].index >= 0, -1, one)
        other = np.where(outside[1].index >= 0, -1, other)
    count = len(of.pairs)
    both = _pixels(one[one == other], count)
    total = _pixels(one, count) + _pixels(other, count)
    some = total > 0
    return Ratio(float((2 * both[some] / total[some]).sum()), int(some.sum()))


def assd(of: KindComparison) -> Ratio:
    """Mean over pairs of instances of the average symmetric surface distance of their outlines, in pixels.

    Of a pair, the mean over the boundary pixels of both (`Instances.boundary`) of the Euclidean distance to
    the nearest boundary pixel of the other (Heimann et al., IEEE Trans. Med. Imaging 28:1251, 2009).
    """
    if not len(of.pairs):
        return Ratio(0, 0)
    from scipy.spatial import cKDTree

    # The pair is a third coordinate, in steps longer than any distance within a field: one tree holds all
    # outlines, and the nearest point is always of the same pair.
    step = 2 * sum(of.true.index.shape)
    points, pair = [], []
    for instances, positions in zip((of.predicted, of.true), of.pair_maps(), strict=True):
        rows, columns = np.nonzero(instances.boundary & (positions >= 0))
        pair.append(positions[rows, columns])
        points.append(np.stack([rows, columns, pair[-1] * step], axis=1).astype(np.float64))
    near = [cKDTree(points[1 - side]).query(points[side])[0] for side in (0, 1)]
    count = len(of.pairs)
    sums = sum(np.bincount(p, weights=d, minlength=count) for p, d in zip(pair, near, strict=True))
    sizes = sum(np.bincount(p, minlength=count) for p in pair)
    return Ratio(float(np.sum(sums / sizes)), count)


def average_precision(of: KindComparison, threshold: float) -> Ratio:
    """TP / (TP + FP + FN), TP being the most pairs with an IoU of at least `threshold`.

    Cellpose's and StarDist's "average precision" at one threshold; it is no area under a curve.
    """
    predicted, true, _ = of.overlaps
    good = of.ious >= threshold
    shape = len(of.predicted), len(of.true)
    hits = len(best_matching(predicted[good], true[good], of.ious[good] + sum(shape), shape))
    return Ratio(hits, sum(shape) - hits)


def panoptic(of: KindComparison, part: Literal["pq", "sq", "dq"]) -> Ratio:
    """Panoptic quality, or its factors segmentation and detection quality (Kirillov et al., CVPR 2019).

    TP are the pairs with an IoU above 0.5, of which no instance can have two.
    """
    ious = of.ious[of.ious > 0.5]
    halves = (len(of.predicted) + len(of.true)) / 2
    top = len(ious) if part == "dq" else float(ious.sum())
    return Ratio(top, len(ious) if part == "sq" else halves)


def aggregated_jaccard(of: KindComparison) -> Ratio:
    """Aggregated Jaccard index (Kumar et al., IEEE Trans. Med. Imaging 36:1550, 2017).

    Each true instance takes the predicted one with the largest IoU, which several may take. Intersections
    over unions of these pairs, together with the pixels of every instance that is in none.
    """
    predicted, true, _ = of.overlaps
    # of each true instance the last in ascending order of IoU; among equals the first of the field
    order = np.lexsort((-predicted, of.ious, true))
    last = np.append(true[order][1:] != true[order][:-1], True) if len(order) else np.empty(0, bool)
    return _aggregate(of, order[last])


def aggregated_jaccard_plus(of: KindComparison) -> Ratio:
    """AJI+ (Graham et al., Medical Image Analysis 58:101563, 2019): as AJI, over the Hungarian matching."""
    return _aggregate(of, of.best_overlaps)


def _aggregate(of: KindComparison, chosen: Indices) -> Ratio:
    predicted, true, shared = of.overlaps
    alone = of.predicted.areas.sum() - of.predicted.areas[np.unique(predicted[chosen])].sum()
    alone += of.true.areas.sum() - of.true.areas[true[chosen]].sum()
    return Ratio(float(shared[chosen].sum()), float(of.unions[chosen].sum() + alone))


def _pixels(positions: NDArray[np.int64], count: int) -> Numbers:
    return np.bincount(positions.ravel() + 1, minlength=count + 1)[1:].astype(np.float64)


_FAMILY: dict[str, tuple[str, Callable[[KindComparison], Ratio]]] = {
    "f1": ("F1 of {kind} centres", centre_f1),
    "assd": ("ASSD of {kind} outlines, px", assd),
    "dice": ("Dice of {kinds}", dice),
    "precision": ("Precision of {kind} centres", centre_precision),
    "recall": ("Recall of {kind} centres", centre_recall),
    "aji": ("AJI of {kinds}", aggregated_jaccard),
    "aji_plus": ("AJI+ of {kinds}", aggregated_jaccard_plus),
    "pq": ("PQ of {kinds}", partial(panoptic, part="pq")),
    "sq": ("SQ of {kinds}", partial(panoptic, part="sq")),
    "dq": ("DQ of {kinds}", partial(panoptic, part="dq")),
    "ap50": ("AP of {kinds} at IoU 0.5", partial(average_precision, threshold=0.5)),
    "ap75": ("AP of {kinds} at IoU 0.75", partial(average_precision, threshold=0.75)),
}
_PLURAL = {"cell": "cells", "nucleus": "nuclei"}


def _of_kind(comparison: Comparison, kind: str, compute: Callable[[KindComparison], Ratio]) -> Ratio:
    return compute(comparison.of(kind))


def _cytoplasm(comparison: Comparison) -> Ratio:
    nuclei = comparison.of("nucleus")
    return dice(comparison.of("cell"), (nuclei.predicted, nuclei.true))


def _metrics() -> dict[str, MaskMetric]:
    found = {}
    for kind in OF_A_KIND:
        for name, (title, compute) in _FAMILY.items():
            found[f"{kind}_{name}"] = MaskMetric(
                name=f"{kind}_{name}",
                title=title.format(kind=kind, kinds=_PLURAL[kind]),
                better="lower" if name == "assd" else "higher",
                kinds=(kind,),
                compute=partial(_of_kind, kind=kind, compute=compute),
            )
    found["cytoplasm_dice"] = MaskMetric(
        "cytoplasm_dice", "Dice of cytoplasm", "higher", ("cell", "nucleus"), _cytoplasm
    )
    return found


PAPER = ("cell_f1", "cell_assd", "cytoplasm_dice", "nucleus_dice")
"""The metrics of Table 1 of the MSDM paper, in its order."""
METRICS: dict[str, MaskMetric] = _metrics()
METRICS = {name: METRICS[name] for name in dict.fromkeys((*PAPER, *METRICS))}
"""All, those of the paper first."""
