"""Metrics of masks against Cellpose's and MONAI's own, to 1e-6."""

import numpy as np
import pytest

from msdm_kit.plugins.metrics.comparison import Comparison
from msdm_kit.plugins.segmentation.scores import score_field

from ..masks import discs, disturbed

PAIRS = [(disturbed(discs(seed), seed), discs(seed)) for seed in range(6)]
TOLERANCE = 1e-6


def dense(labels):
    """The same instances numbered from 1 without gaps: Cellpose takes gaps for instances."""
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


def figure(name, predicted, true):
    return score_field({"cell": predicted}, {"cell": true}, [name])[name]


@pytest.fixture(scope="module")
def cellpose():
    from cellpose import metrics

    return metrics


@pytest.mark.parametrize("threshold", [0.5, 0.75])
def test_average_precision_is_that_of_cellpose(cellpose, threshold):
    for predicted, true in PAIRS:
        theirs = cellpose.average_precision(dense(true), dense(predicted), [threshold])[0][0]
        ours = figure(f"cell_ap{threshold * 100:.0f}", predicted, true)
        assert ours == pytest.approx(float(theirs), abs=TOLERANCE)


def test_the_aji_of_cellpose_is_another_figure_of_the_same_overlaps(cellpose):
    """Cellpose divides by the pixels of all instances together, Kumar et al. by sums of unions.

    Its matching prefers pairs with an IoU of at least 0.5. Where predictions overlap one true instance at
    most, and the other way round, the two are one.
    """
    for predicted, true in PAIRS:
        of = Comparison({"cell": dense(predicted)}, {"cell": dense(true)}).of("cell")
        p, t, shared = of.overlaps
        names = of.predicted.labels[p].tolist(), of.true.labels[t].tolist()
        _, chosen = cellpose.mask_ious(dense(true), dense(predicted))
        there = dict(zip(zip(*names, strict=True), shared.tolist(), strict=True))
        overlap = sum(there.get((int(c), k), 0) for k, c in enumerate(chosen, 1))
        theirs = float(cellpose.aggregated_jaccard_index([dense(true)], [dense(predicted)])[0])
        assert overlap / ((predicted > 0) | (true > 0)).sum() == pytest.approx(theirs, abs=TOLERANCE)
    true = np.zeros((60, 60), np.int32)
    for k in range(4):
        true[3 + 14 * k : 12 + 14 * k, 5:20] = k + 1
    predicted = 3 * np.roll(true, 3, 1)
    predicted[40:50, 40:50] = 30
    theirs = float(cellpose.aggregated_jaccard_index([dense(true)], [dense(predicted)])[0])
    assert 0.3 < theirs < 0.7
    assert figure("cell_aji", predicted, true) == pytest.approx(theirs, abs=TOLERANCE)
    assert figure("cell_aji_plus", predicted, true) == pytest.approx(theirs, abs=TOLERANCE)


def test_panoptic_quality_is_that_of_monai():
    torch, metrics = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    for predicted, true in PAIRS:
        one, other = (torch.from_numpy(dense(a)) for a in (predicted, true))
        for ours, theirs in (("pq", "pq"), ("sq", "sq"), ("dq", "rq")):
            value = metrics.compute_panoptic_quality(one, other, theirs, smooth_numerator=0.0)
            assert figure(f"cell_{ours}", predicted, true) == pytest.approx(float(value), abs=TOLERANCE)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_dice_and_surface_distance_are_those_of_monai():
    torch, metrics = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    for predicted, true in PAIRS:
        of = Comparison({"cell": predicted}, {"cell": true}).of("cell")
        one, other = (
            torch.from_numpy(np.stack([a == instances.labels[k] for k in indices])[:, None]).float()
            for a, instances, indices in (
                (predicted, of.predicted, of.pairs[:, 0]), (true, of.true, of.pairs[:, 1])
            )
        )  # fmt: skip
        dice = metrics.compute_dice(one, other).double().mean()
        assert figure("cell_dice", predicted, true) == pytest.approx(float(dice), abs=TOLERANCE)
        distances = metrics.compute_average_surface_distance(
            one, other, include_background=True, symmetric=True
        )
        assert figure("cell_assd", predicted, true) == pytest.approx(
            float(distances.double().mean()), abs=TOLERANCE
        )
