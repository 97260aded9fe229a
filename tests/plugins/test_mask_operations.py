"""Mask operations: known answers, then what each guarantees, on random fields of cells with nuclei."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msdm_kit.plugins.data import data_folder
from msdm_kit.plugins.host import get_host
from msdm_kit.plugins.mask_operations.apply import load_operations
from msdm_kit.plugins.mask_operations.space import Space
from msdm_kit.plugins.mask_operations.units import in_one_piece, layers, units
from msdm_kit.plugins.properties import Field

SETTINGS = {
    "drop_instances": ["fraction=0.4", "fraction=0.99"],
    "duplicate_instances": ["fraction=0.5", "fraction=3"],
    "elastic": ["amplitude=3,smoothness=4", "amplitude=40,smoothness=3"],
    "flip_turn": ["flips=true", "turns=false"],
    "mix": ["fraction=1.0", "anywhere=false"],
    "move_instances": ["distance=6", "distance=30,fraction=0.5"],
    "scale_instances": ["factor=[0.5, 2]", "factor=[1.5, 1.5],overlap=keep", "factor=[0.1, 0.2]"],
}
ALL = [f"{name}:{text}" for name, texts in SETTINGS.items() for text in texts]
LOSING = {"drop_instances"}
KEEPS_FORM = {"flip_turn", "move_instances"}


def rng(seed):
    return np.random.default_rng(seed)


def operation(text):
    return load_operations([text])[0].operation


def field(seed, cells=6, size=(40, 48), bare=0.2):
    """Blobs of random sizes with nuclei of the same labels, some cells without, one nucleus alone."""
    draw = rng(seed)
    cell, nucleus = np.zeros(size, np.int32), np.zeros(size, np.int32)
    y, x = np.indices(size)
    labels = draw.permutation(3 * cells)[:cells] + 1 if cells else []
    for k in labels:
        cy, cx = draw.uniform(0, size[0]), draw.uniform(0, size[1])
        a, b = draw.uniform(1, 9, 2)
        inside = ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 <= 1
        if not inside.any() or (cell[inside] | nucleus[inside]).any():
            continue
        core = ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 <= 0.4
        kind = draw.uniform()
        if kind > bare / 2:
            cell[inside] = k
        if kind <= bare / 2 or kind > bare:
            nucleus[core] = k
    return {"cell": cell, "nucleus": nucleus}


def labels_of(mask):
    return set(np.unique(mask[mask > 0]).tolist())


def area(mask):
    return np.bincount(mask.ravel())


fields = st.builds(field, st.integers(0, 10_000), st.integers(0, 14))


def test_the_built_ins_are_these():
    assert get_host().names("mask_operation") == sorted(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_operation_and_its_settings_are_described(name):
    root = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[2]))
    text = (root / "docs" / "mask-operations.md").read_text(encoding="utf-8")
    for word in (name, *get_host().load("mask_operation", name).Config.model_fields):
        assert f"`{word}`" in text


@pytest.mark.parametrize("text", ALL)
@settings(max_examples=20, deadline=None)
@given(masks=fields, other=fields, seed=st.integers(0, 99))
def test_what_every_operation_guarantees(text, masks, other, seed):
    """Deterministic; its arguments untouched; shape, type and pairing kept; none lost but where asked."""
    name, made = text.partition(":")[0], operation(text)
    before = {kind: labels.copy() for kind, labels in masks.items()}
    after = made.apply(masks, rng(seed), other)
    again = made.apply(masks, rng(seed), other)
    for kind in masks:
        np.testing.assert_array_equal(masks[kind], before[kind])
        np.testing.assert_array_equal(after[kind], again[kind])
        assert after[kind].dtype == np.int32
        assert after[kind].shape == masks[kind].shape
        assert not np.shares_memory(after[kind], masks[kind])
        if name not in LOSING:
            assert labels_of(before[kind]) <= labels_of(after[kind])
        if name != "mix":
            for k in labels_of(before[kind]) & labels_of(after[kind]):
                assert in_one_piece(after[kind] == k) or not in_one_piece(before[kind] == k)
    # nucleus k lies in cell k where there is one, and else in none
    cells = labels_of(after["cell"])
    for k in labels_of(after["nucleus"]):
        under = set(np.unique(after["cell"][after["nucleus"] == k]).tolist())
        assert under == ({k} if k in cells else {0})
    if name in KEEPS_FORM:
        for kind in masks:
            kept = labels_of(before[kind])
            assert all(area(after[kind])[k] == area(before[kind])[k] for k in kept)


@pytest.mark.parametrize("text", ALL)
def test_empty_fields_stay_empty(text):
    empty = {kind: np.zeros((9, 12), np.int32) for kind in ("cell", "nucleus")}
    after = operation(text).apply(empty, rng(0), empty)
    assert not any(labels.any() for labels in after.values())


@settings(max_examples=40, deadline=None)
@given(fields, st.floats(0, 0.99), st.integers(0, 9))
def test_exactly_as_many_are_dropped_as_asked(masks, fraction, seed):
    found = units(masks, ("cell", "nucleus"))
    after = operation(f"drop_instances:fraction={fraction!r}").apply(masks, rng(seed))
    left = units(after, ("cell", "nucleus"))
    asked = int(np.floor(fraction * len(found) + 1e-9))
    lone = any(
        len(labels_of(masks[kind]) & labels_of(after[kind])) == 1 and len(labels_of(masks[kind])) > 0
        for kind in masks
    )
    assert len(found) - len(left) == asked or (lone and len(found) - len(left) < asked)
    for kind in masks:
        same = after[kind] > 0
        np.testing.assert_array_equal(after[kind][same], masks[kind][same])
        for k in labels_of(after[kind]):
            assert area(after[kind])[k] == area(masks[kind])[k], "those that are left keep every pixel"
        assert bool(masks[kind].any()) == bool(after[kind].any())


def grid(n=10, side=100):
    """`n` x `n` cells of 6 x 4 pixels with a nucleus each, far from each other."""
    cell = np.zeros((side, side), np.int32)
    nucleus = cell.copy()
    for i in range(n):
        for j in range(n):
            y, x, k = 10 * i + 2, 10 * j + 2, n * i + j + 1
            cell[y : y + 6, x : x + 4], nucleus[y + 2 : y + 4, x + 1 : x + 3] = k, k
    return {"cell": cell, "nucleus": nucleus}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("drop_instances:fraction=0.29", 71),
        ("drop_instances:fraction=0.999", 1),
        ("duplicate_instances:fraction=0.57", 157),
        ("duplicate_instances:fraction=1.2", 220),
        ("move_instances:distance=3", 100),
        ("scale_instances:factor=[0.7, 1.3]", 100),
    ],
)
def test_counts(text, count):
    after = operation(text).apply(grid(), rng(1))
    assert len(labels_of(after["cell"])) == len(labels_of(after["nucleus"])) == count
    assert labels_of(after["cell"]) == labels_of(after["nucleus"])


@settings(max_examples=30, deadline=None)
@given(fields, fields, st.integers(0, 9), st.sampled_from(["mix", "duplicate_instances:fraction=2"]))
def test_what_was_there_is_not_touched_by_additions(masks, other, seed, text):
    after = operation(text).apply(masks, rng(seed), other)
    old = (masks["cell"] > 0) | (masks["nucleus"] > 0)
    for kind, labels in masks.items():
        np.testing.assert_array_equal(after[kind][old], labels[old])
        assert not (labels_of(after[kind][~old]) & labels_of(labels)), "labels of their own"


def test_mixing_into_an_empty_field_gives_the_other():
    empty = {kind: np.zeros((100, 100), np.int32) for kind in ("cell", "nucleus")}
    after = operation("mix").apply(empty, rng(0), grid())
    for kind, labels in grid().items():
        np.testing.assert_array_equal(after[kind] > 0, labels > 0)
        assert len(labels_of(after[kind])) == 100


def test_mixing_keeps_the_whole_form():
    one = {kind: np.where(labels == 45, 45, 0).astype(np.int32) for kind, labels in grid().items()}
    assert {k: len(labels_of(v)) for k, v in operation("mix").apply(one, rng(0), one).items()} == {
        "cell": 2,
        "nucleus": 2,
    }
    assert len(labels_of(operation("mix:anywhere=false").apply(one, rng(0), one)["cell"])) == 1


def test_a_turned_field_is_one_of_eight():
    masks = grid(3, 30)
    forms = [np.rot90(m, k) for m in (masks["cell"], masks["cell"][:, ::-1]) for k in range(4)]
    seen = set()
    for seed in range(60):
        after = operation("flip_turn").apply(masks, rng(seed))["cell"]
        (which,) = (i for i, form in enumerate(forms) if np.array_equal(form, after))
        seen.add(which)
    assert len(seen) == 8


def test_an_oblong_field_keeps_its_size_when_turned():
    masks = {"cell": np.arange(12, dtype=np.int32).reshape(3, 4)}
    seen = {operation("flip_turn").apply(masks, rng(s))["cell"].tobytes() for s in range(40)}
    assert len(seen) == 4


def test_scaling_by_two_makes_four_times_the_area():
    square = np.zeros((60, 60), np.int32)
    square[20:30, 20:30] = 7
    after = operation("scale_instances:factor=[2, 2]").apply({"gland": square}, rng(0))["gland"]
    assert area(after)[7] == 400
    assert np.argwhere(after == 7).mean(0) == pytest.approx((24.5, 24.5), abs=0.5)


def test_growing_cells_are_cut_or_keep_their_size():
    touching = np.zeros((20, 40), np.int32)
    touching[5:15, 5:15], touching[5:15, 15:25] = 1, 2
    cut = operation("scale_instances:factor=[1.4, 1.4]").apply({"cell": touching}, rng(0))["cell"]
    kept = operation("scale_instances:factor=[1.4, 1.4],overlap=keep").apply({"cell": touching}, rng(0))
    np.testing.assert_array_equal(kept["cell"], touching)
    assert (cut[5:15, 5:15] == 1).all()
    assert (cut[5:15, 15:25] == 2).all()
    assert area(cut)[1] > 130
    assert area(cut)[2] > 130


def test_amplitude_is_the_longest_shift():
    ramp = np.arange(1, 64 * 64 + 1, dtype=np.int32).reshape(64, 64)
    from msdm_kit.plugins.mask_operations.elastic import _field

    shift = _field(ramp.shape, 8.0, rng(0))
    assert np.hypot(*shift).max() == pytest.approx(1)
    assert not shift[:, [0, -1], :].any()
    assert not shift[:, :, [0, -1]].any()
    still = operation("elastic:amplitude=0").apply({"cell": ramp}, rng(0))["cell"]
    np.testing.assert_array_equal(still, ramp)


def test_elastic_changes_real_forms_and_moves_cell_and_nucleus_alike():
    root = data_folder("histology-nuclei")
    row = Field(root, {"id": "dsb18_00ae65c1"})
    masks = {kind: row.labels(kind).astype(np.int32) for kind in ("cell", "nucleus")}
    after = operation("elastic:amplitude=6").apply(masks, rng(2))
    changed = (after["cell"] != masks["cell"]).mean()
    assert 0.03 < changed < 0.5
    assert ((after["nucleus"] == 0) | (after["nucleus"] == after["cell"])).all()


def test_moves_reach_as_far_as_asked_and_no_farther():
    one = {kind: np.where(labels == 45, 45, 0).astype(np.int32) for kind, labels in grid().items()}
    start = np.argwhere(one["cell"]).mean(0)
    lengths = []
    for seed in range(30):
        after = operation("move_instances:distance=5").apply(one, rng(seed))["cell"]
        lengths.append(np.hypot(*(np.argwhere(after).mean(0) - start)))
    assert min(lengths) > 0.99
    assert 4 < max(lengths) <= 5


def test_cut_instances_stay():
    masks = {"cell": np.zeros((20, 20), np.int32)}
    masks["cell"][0:4, 0:4] = 1
    for text in ("move_instances", "duplicate_instances:fraction=1"):
        np.testing.assert_array_equal(operation(text).apply(masks, rng(0))["cell"], masks["cell"])


def test_a_cell_is_one_with_its_nuclei_whatever_their_numbers():
    cell, nucleus = np.zeros((12, 12), np.int32), np.zeros((12, 12), np.int32)
    cell[2:10, 2:10], nucleus[3:5, 3:5], nucleus[6:9, 6:9], nucleus[0, 0] = 4, 9, 2, 5
    masks = {"nucleus": nucleus, "cell": cell, "gland": cell}
    assert layers(masks) == [("cell", "nucleus"), ("gland",)]
    whole, alone = units(masks, ("cell", "nucleus"))
    assert whole.labels == {"cell": (4,), "nucleus": (2, 9)}
    assert alone.labels == {"nucleus": (5,)}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.floats(0, 1), st.integers(1, 6), st.integers(1, 6))
def test_a_place_is_found_where_there_is_one(seed, share, height, width):
    taken = rng(seed).uniform(size=(14, 11)) < share
    shape = np.ones((height, width), bool)
    shape[0, 0] = height * width == 1
    legal = {
        (y, x)
        for y in range(14 - height + 1)
        for x in range(11 - width + 1)
        if not (taken[y : y + height, x : x + width] & shape).any()
    }
    found = Space(taken).find(shape, rng(seed))
    assert found in legal if legal else found is None
