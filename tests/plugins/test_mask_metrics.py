"""Metrics of masks: closed forms, definitions written out, the rules for empty masks, and properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.host import get_host
from msdm_kit.plugins.metrics.base import MaskMetric, Ratio
from msdm_kit.plugins.metrics.comparison import Comparison, Instances
from msdm_kit.plugins.metrics.distance import read_distance
from msdm_kit.plugins.metrics.masks import METRICS, PAPER
from msdm_kit.plugins.metrics.matching import best_matching, match_points
from msdm_kit.plugins.segmentation.scores import mask_metrics, score_field, score_fields

from ..masks import discs, disturbed, relabelled

SEEDS = st.integers(0, 10**6)
SYMMETRIC = ("f1", "pq", "sq", "dq", "ap50", "ap75")


def cells(predicted, true, **settings):
    """The figures of one kind of mask, by their short names."""
    scores = score_field({"cell": predicted}, {"cell": true}, **settings)
    return {name.removeprefix("cell_"): value for name, value in scores.items() if name.startswith("cell_")}


def squares(side, shift, field=64):
    """A square in a field, and the same further right."""
    true, predicted = np.zeros((2, field, field), np.int32)
    true[20 : 20 + side, 10 : 10 + side] = 3
    predicted[20 : 20 + side, 10 + shift : 10 + shift + side] = 7
    return predicted, true


@pytest.mark.parametrize(("side", "shift"), [(10, 0), (10, 1), (10, 2), (12, 4), (9, 7), (2, 1)])
def test_shifted_squares_by_hand(side, shift):
    found = cells(*squares(side, shift), radius=8)
    iou = (side - shift) / (side + shift)
    assert found["f1"] == found["precision"] == found["recall"] == 1
    assert found["dice"] == pytest.approx((side - shift) / side, abs=1e-12)
    assert found["aji"] == found["aji_plus"] == pytest.approx(iou, abs=1e-12)
    assert (found["ap50"], found["ap75"]) == (float(iou >= 0.5), float(iou >= 0.75))
    assert found["pq"] == pytest.approx(iou if iou > 0.5 else 0, abs=1e-12)
    # the corners' columns, the outer side, and the side that lies inside the other square
    inner = sum(min(shift, y, side - 1 - y, side - 1 - shift) for y in range(1, side - 1))
    total = shift * (shift + 1) + (side - 2) * shift + inner
    assert found["assd"] == pytest.approx(total / (4 * side - 4), abs=1e-12)


@pytest.mark.parametrize(("distance", "found"), [(5, 1), (6, 1), (7, 0)])
def test_centres_at_the_radius_are_a_pair_and_beyond_it_none(distance, found):
    assert cells(*squares(8, distance))["f1"] == found
    assert cells(*squares(8, distance), radius=distance)["f1"] == 1
    assert cells(*squares(8, distance), radius=distance - 0.01)["f1"] == 0


def test_counts_by_hand():
    """Three cells, two found, one invented: 2 TP, 1 FP, 1 FN."""
    true, predicted = np.zeros((2, 40, 40), np.int32)
    true[2:8, 2:8], true[2:8, 20:26], true[30:36, 2:8] = 1, 2, 3
    predicted[2:8, 2:8], predicted[2:8, 20:26], predicted[30:36, 30:36] = 5, 6, 7
    found = cells(predicted, true)
    assert found["f1"] == found["dq"] == found["pq"] == pytest.approx(2 / 3)
    assert found["precision"] == found["recall"] == pytest.approx(2 / 3)
    assert found["ap50"] == found["ap75"] == pytest.approx(2 / 4)
    assert found["aji"] == found["aji_plus"] == pytest.approx(72 / 144)
    assert (found["sq"], found["dice"], found["assd"]) == (1, 1, 0)


def test_cytoplasm_is_the_cell_without_nuclei():
    """Cells of 64 pixels, one predicted with a nucleus of 16 and there with one of 4, within the former."""
    true_cell, cell, true_nucleus, nucleus = np.zeros((4, 20, 20), np.int32)
    true_cell[4:12, 4:12], cell[4:12, 4:12] = 1, 2
    nucleus[6:10, 6:10], true_nucleus[7:9, 7:9] = 4, 9
    found = score_field({"cell": cell, "nucleus": nucleus}, {"cell": true_cell, "nucleus": true_nucleus})
    assert found["cytoplasm_dice"] == pytest.approx(2 * 48 / (48 + 60), abs=1e-12)
    assert found["nucleus_dice"] == pytest.approx(2 * 4 / (16 + 4), abs=1e-12)
    assert found["cell_dice"] == 1


def test_cells_that_are_all_nucleus_have_no_cytoplasm():
    cell = np.zeros((20, 20), np.int32)
    cell[4:12, 4:12] = 1
    part = np.where(np.arange(20) < 8, cell, 0)
    both = {"cell": cell, "nucleus": cell}
    assert math.isnan(score_field(both, both)["cytoplasm_dice"])
    assert score_field(both, {"cell": cell, "nucleus": part})["cytoplasm_dice"] == 0


def test_a_true_instance_is_found_once_however_often_it_is_cut():
    """Halves of IoU 0.5 each: only one can be it; AJI takes one, and the other half is false."""
    true = np.zeros((20, 20), np.int32)
    true[4:12, 4:12] = 1
    halves = np.where(np.arange(20) < 8, true, 2 * true)
    found = cells(halves, true)
    assert found["ap50"] == 1 / 2
    assert (found["pq"], found["aji"]) == (0, pytest.approx(32 / 96))
    assert found["f1"] == pytest.approx(2 / 3)


def test_aji_may_take_a_prediction_twice_and_aji_plus_may_not():
    true = np.zeros((20, 20), np.int32)
    true[4:12, 4:8], true[4:12, 8:12] = 1, 2
    fused = (true > 0).astype(np.int32)
    found = cells(fused, true)
    assert found["aji"] == pytest.approx((32 + 32) / (64 + 64))
    assert found["aji_plus"] == pytest.approx(32 / (64 + 32))


def test_instances_next_to_each_other_and_at_the_border_have_a_boundary():
    labels = np.zeros((5, 6), np.int32)
    labels[:, :3], labels[1:4, 3:] = 1, 2
    expected = np.zeros(labels.shape, bool)
    for label in (1, 2):
        expected |= (labels == label) & ~binary_erosion(labels == label)
    assert (Instances(labels).boundary == expected).all()


def definition_of_assd(a, b):
    """The average symmetric surface distance of two masks, as it is written down."""
    edge_a, edge_b = (m & ~binary_erosion(m) for m in (a, b))
    to_b, to_a = (distance_transform_edt(~edge) for edge in (edge_b, edge_a))
    return (to_b[edge_a].sum() + to_a[edge_b].sum()) / (edge_a.sum() + edge_b.sum())


@pytest.mark.parametrize("seed", range(4))
def test_figures_of_matched_cells_are_means_over_pairs(seed):
    true = discs(seed)
    predicted = disturbed(true, seed)
    of = Comparison({"cell": predicted}, {"cell": true}).of("cell")
    pairs = [
        (predicted == of.predicted.labels[p], true == of.true.labels[t]) for p, t in of.pairs
    ]  # fmt: skip
    assert len(pairs) > 3
    found = cells(predicted, true)
    assert found["assd"] == pytest.approx(np.mean([definition_of_assd(a, b) for a, b in pairs]), abs=1e-12)
    dice = np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs])
    assert found["dice"] == pytest.approx(dice, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 9), st.integers(1, 9), st.floats(0, 1))
def test_the_matching_is_the_hungarian_one(seed, n, m, share):
    rng = np.random.default_rng(seed)
    rows, columns = np.nonzero(rng.random((n, m)) < share)
    weights = rng.random(len(rows)) + 1e-3
    dense = np.zeros((n, m))
    dense[rows, columns] = weights
    chosen = best_matching(rows, columns, weights, (n, m))
    assert len(set(rows[chosen])) == len(set(columns[chosen])) == len(chosen)
    best = dense[linear_sum_assignment(dense, maximize=True)].sum()
    assert weights[chosen].sum() == pytest.approx(best, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(0, 9), st.integers(0, 9), st.floats(0, 60))
def test_as_many_centres_as_can_be_are_matched_at_the_least_distance(seed, n, m, radius):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, 50, (n, 2)), rng.uniform(0, 50, (m, 2))
    pairs = match_points(a, b, radius)
    distances = cdist(a, b)
    found = distances[pairs[:, 0], pairs[:, 1]]
    assert (found <= radius).all()
    cost = np.where(distances <= radius, distances, 1e4)
    best = cost[linear_sum_assignment(cost)]
    assert len(pairs) == (best < 1e4).sum()
    assert found.sum() == pytest.approx(best[best < 1e4].sum(), abs=1e-6)
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_the_names_of_labels_do_not_matter(seed):
    true, nuclei = discs(seed), discs(seed + 1)
    predicted, found_nuclei = disturbed(true, seed), disturbed(nuclei, seed)
    same_under_new_names(true, nuclei, predicted, found_nuclei, seed)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_nor_do_they_where_many_matchings_are_as_good(seed):
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 4, (4, 5, 6)).astype(np.int32)
    same_under_new_names(*masks, seed)


def same_under_new_names(true, nuclei, predicted, found_nuclei, seed):
    before = score_field({"cell": predicted, "nucleus": found_nuclei}, {"cell": true, "nucleus": nuclei})
    after = score_field(
        {"cell": relabelled(predicted, seed + 2), "nucleus": relabelled(found_nuclei, seed + 3)},
        {"cell": relabelled(true, seed + 4), "nucleus": relabelled(nuclei, seed + 5)},
    )
    np.testing.assert_array_equal(list(after.values()), list(before.values()))


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_a_field_against_itself_is_perfect(seed):
    masks = {"cell": discs(seed), "nucleus": np.where(discs(seed + 1) > 0, discs(seed), 0)}
    for name, value in score_field(masks, masks).items():
        assert value == (0 if METRICS[name].better == "lower" else 1) or math.isnan(value), name


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_figures_without_a_direction_have_none(seed):
    true = discs(seed)
    predicted = disturbed(true, seed)
    one, other = cells(predicted, true), cells(true, predicted)
    for name in SYMMETRIC:
        assert one[name] == pytest.approx(other[name], abs=1e-12, nan_ok=True), name
    assert one["precision"] == pytest.approx(other["recall"], nan_ok=True)
    for name, value in one.items():
        assert math.isnan(value) or 0 <= value <= (math.inf if name == "assd" else 1), name


def test_masks_of_other_fields_score_badly():
    fields = [{"cell": discs(seed), "nucleus": discs(seed + 50)} for seed in range(12)]
    good, bad = ([s[name] for s in rows] for name in ("cell_pq",) for rows in (
        score_fields(({"cell": disturbed(f["cell"], 1), "nucleus": f["nucleus"]} for f in fields), fields),
        score_fields([*fields[1:], fields[0]], fields),
    ))  # fmt: skip
    assert np.mean(good) > 0.4
    assert np.mean(bad) < 0.1


EMPTY = np.zeros((30, 30), np.int32)
FULL = np.zeros((30, 30), np.int32)
FULL[5:15, 5:15] = 4
NAN, ZERO = math.nan, 0.0


NOTHING = dict.fromkeys(["f1", "precision", "recall", "pq", "sq", "dq", "ap50", "ap75"], NAN)
NOTHING |= dict.fromkeys(["aji", "aji_plus", "dice", "assd"], NAN)
UNMATCHED = dict.fromkeys(NOTHING, ZERO) | dict.fromkeys(["sq", "dice", "assd"], NAN)


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        (EMPTY, EMPTY, NOTHING),
        (FULL, EMPTY, UNMATCHED | {"recall": NAN}),
        (EMPTY, FULL, UNMATCHED | {"precision": NAN}),
        (np.roll(FULL, 14, (0, 1)), FULL, UNMATCHED),
    ],
    ids=["nothing", "invented", "missed", "apart"],
)
def test_rules_for_empty_masks(predicted, true, expected):
    assert cells(predicted, true) == pytest.approx(expected, nan_ok=True)


def test_a_field_without_a_kind_has_no_value_for_it():
    found = score_field({"cell": FULL}, {"cell": FULL, "nucleus": FULL})
    assert found["cell_f1"] == 1
    assert all(math.isnan(v) for k, v in found.items() if k.startswith(("nucleus", "cytoplasm")))


def test_pooling_is_sum_over_sum():
    assert Ratio.pooled([Ratio(2, 4), Ratio(1, 1), Ratio(0, 0)]) == 3 / 5
    assert math.isnan(Ratio.pooled([Ratio(0, 0)]))


def test_labels_above_any_table_and_one_label_everywhere():
    big = np.where(FULL > 0, 2**30, 0).astype(np.int32)
    assert cells(big, FULL)["f1"] == 1
    assert cells(np.full_like(FULL, 2**30), np.full_like(FULL, 3))["pq"] == 1


def test_every_metric_is_a_plugin_and_those_of_the_paper_come_first():
    host = get_host()
    for name, metric in METRICS.items():
        assert host.load("metric", name) is metric
        assert isinstance(metric, MaskMetric)
        assert metric.name == name
    assert tuple(mask_metrics())[:4] == PAPER
    assert set(mask_metrics()) >= METRICS.keys()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: score_field({"cell": FULL}, {"cell": FULL}, ["cell_f2"]), "did you mean 'cell_f1'?"),
        (lambda: score_field({"cell": FULL}, {"cell": FULL[:9]}), "one height and width"),
        (lambda: score_field({"cell": FULL - 1}, {"cell": FULL}), "and one is -1"),
        (lambda: score_field({"cell": FULL * 0.5}, {"cell": FULL}), "float64 of shape (30, 30)"),
        (lambda: score_field({"cell": FULL}, {"cell": FULL}, radius=math.nan), "at least 0 pixels"),
        (lambda: score_fields([{"cell": FULL}], []), "as many predicted as true"),
        (lambda: Comparison({"cell": FULL}, {"cell": FULL}).of("nucleus"), "legal: cell"),
        (lambda: match_points(np.zeros((5000, 2)), np.zeros((5000, 2)), 1), "give a shorter distance"),
        (lambda: read_distance("3 mm"), "such as 6px or 3um"),
        (lambda: read_distance("3um").pixels(None), "pixel_size_um"),
    ],
)
def test_mistakes_are_one_line(call, words):
    with pytest.raises(MsdmError) as raised:
        call()
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("text", "pixels"), [("6", 6), ("6px", 6), ("2.5 px", 2.5), ("3um", 6), ("3 µm", 6)])
def test_distances(text, pixels):
    assert read_distance(text).pixels(0.5) == pixels
