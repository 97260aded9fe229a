"""Selections: who is chosen in which order, and a file that is refused once the data are others."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.images import save_labels
from msdm_kit.core.manifest import read_manifest, write_manifest
from msdm_kit.plugins.selection import distribution, select
from msdm_kit.plugins.selection_file import companion, load_selection, save_selection

from ..toy import toy_folder

IDS = ["a", "b", "c", "d", "e"]


@pytest.fixture
def data(tmp_path):
    """Five fields with 5, 4, 3, 2, 1 nuclei."""
    root = toy_folder(tmp_path / "data", IDS, ["train", "train", "val", "val", "test"])
    for i, id in enumerate(IDS):
        labels = np.zeros((40, 40), np.uint16)
        for k in range(5 - i):
            labels[4:8, 8 * k : 8 * k + 4 + i] = k + 1
        save_labels(root / "nuclei" / f"{id}.png", labels)
    return root


def test_who_matches_in_the_manifests_order(data):
    found = select(data, "count_nucleus >= 3 and assay == 'purple'")
    assert (found.chosen_ids, found.matching, found.ids) == (["a", "c"], 2, IDS)
    assert found.values["count_nucleus"] == [5, 4, 3, 2, 1]
    assert found.values["assay"] == ["purple", "brown stain", "purple", "brown stain", "purple"]
    assert (found.missing, found.notes) == (0, ())
    assert select(data).chosen_ids == IDS


def test_sorted_and_limited(data):
    assert select(data, sort="mean_nucleus_area").chosen_ids == ["e", "d", "c", "b", "a"]
    found = select(data, "count_nucleus < 5", sort="-mean_nucleus_area", limit=2)
    assert (found.chosen_ids, found.matching) == (["b", "c"], 4)
    assert set(found.values) == {"count_nucleus", "mean_nucleus_area"}
    assert select(data, sort="width").chosen_ids == IDS, "ties"
    assert select(data, split="val", sort="count_nucleus").chosen_ids == ["c", "d"]


def test_missing_values_are_last_and_said(data):
    save_labels(data / "nuclei" / "b.png", np.zeros((40, 40), np.uint16))
    found = select(data, "mean_nucleus_area > 0 or count_nucleus == 0", sort="-mean_nucleus_area")
    assert found.chosen_ids == ["a", "c", "d", "e", "b"]
    assert found.missing == 1
    assert "1 of 5 fields lack a value" in found.notes[0]


def test_columns_alone_read_no_mask(data):
    for path in (data / "nuclei").iterdir():
        path.write_bytes(b"damaged")
    assert select(data, "split in ['train', 'val']").matching == 4
    with pytest.raises(MsdmError, match=r"nuclei/a\.png"):
        select(data, "count_nucleus > 0")


def test_processes_give_what_one_gives(data):
    seen = []
    one = select(data, "mean_cell_eccentricity < 1", sort="std_nucleus_area")
    two = select(
        data,
        "mean_cell_eccentricity < 1",
        sort="std_nucleus_area",
        workers=2,
        on_progress=lambda *now: seen.append(now),
    )
    assert (one.chosen_ids, one.values) == (two.chosen_ids, two.values)
    assert seen == [(i, 5) for i in range(6)]


def test_a_distribution():
    d = distribution([1.0, math.nan, 3.0, 8.0])
    assert (d.fields, d.missing, d.mean, d.min, d.median, d.max) == (4, 1, 4, 1, 3, 8)
    assert d.std == pytest.approx(math.sqrt((9 + 1 + 16) / 3))
    assert math.isnan(distribution([math.nan]).mean)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"where": "count_nuclei > 3"}, "did you mean 'count_nucleus'"),
        ({"sort": "assay"}, "is a text, and here a number is needed"),
        ({"split": "tran"}, "did you mean 'train'"),
        ({"limit": 0}, "limit 0"),
    ],
)
def test_mistakes(data, arguments, message):
    with pytest.raises(MsdmError, match=message):
        select(data, **arguments)
    with pytest.raises(MsdmError, match="missing"):
        select(data / "nowhere")


def test_what_is_saved_is_loaded(data, tmp_path):
    found = select(data, "fraction(nucleus.area > 19) > 0.5 or id == 'a'", sort="mean_nucleus_area", limit=3)
    path = tmp_path / "out" / "some.csv"
    assert save_selection(found, path) == companion(path) == tmp_path / "out" / "some.selection.json"
    assert load_selection(path, data) == (found.chosen_ids, [])
    rows = read_manifest(path)
    assert list(rows[0]) == ["id", "fraction(nucleus.area > 19)", "mean_nucleus_area"]
    assert rows[0] == {"id": "e", "fraction(nucleus.area > 19)": "1", "mean_nucleus_area": "32"}
    facts = json.loads(companion(path).read_text())
    assert (facts["where"], facts["asked"], facts["selected"]) == (found.where, 5, 3)
    save_selection(select(data, limit=1), path)
    assert load_selection(path, data) == (["a"], [])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(st.sampled_from(IDS), min_size=1, unique=True))
def test_any_choice_comes_back(data, tmp_path, chosen):
    path = tmp_path / "any.csv"
    found = select(data, f"id in {chosen!r}", sort="count_nucleus")
    save_selection(found, path)
    assert load_selection(path, data) == (sorted(chosen), [])


def test_a_selection_of_other_data_is_refused(data, tmp_path):
    path = tmp_path / "some.csv"
    save_selection(select(data, "count_nucleus > 2 and assay != 'x'"), path)
    rows = read_manifest(data / "metadata.csv")
    write_manifest(data / "metadata.csv", [{**row, "assay": "other"} for row in rows])
    with pytest.raises(
        MsdmError, match="is not what it was then; select again: msdm-kit data select"
    ) as caught:
        load_selection(path, data)
    assert "\"count_nucleus > 2 and assay != 'x'\"" in str(caught.value)


def test_a_list_by_hand_is_a_selection(data, tmp_path):
    path = tmp_path / "mine.csv"
    write_manifest(path, [{"id": "c"}, {"id": "a"}])
    ids, (note,) = load_selection(path, data)
    assert (ids, "is not known" in note) == (["c", "a"], True)
    write_manifest(path, [{"id": "c"}, {"id": "x"}, {"id": "y"}])
    with pytest.raises(MsdmError, match=r"field 'x' \(\+1 more\)"):
        load_selection(path, data)


def test_rows_that_were_deleted_are_said(data, tmp_path):
    path = tmp_path / "some.csv"
    save_selection(select(data, "count_nucleus > 2"), path)
    write_manifest(path, read_manifest(path)[1:])
    assert load_selection(path, data) == (
        ["b", "c"],
        [f"{path} was changed since it was selected: 2 of 3 fields"],
    )


@pytest.mark.parametrize("content", ["{}", "[]", "nonsense", '{"format": "other"}', "[" * 100_000])
def test_a_damaged_companion_is_refused(data, tmp_path, content):
    path = tmp_path / "some.csv"
    save_selection(select(data), path)
    companion(path).write_text(content)
    with pytest.raises(MsdmError, match=r"some\.selection\.json is not"):
        load_selection(path, data)


def test_nothing_is_overwritten_and_nothing_empty_is_written(data, tmp_path):
    before = (data / "metadata.csv").read_bytes()
    with pytest.raises(MsdmError, match="was not made by a selection"):
        save_selection(select(data), data / "metadata.csv")
    assert (data / "metadata.csv").read_bytes() == before
    for found, name, message in (
        (select(data), "some.txt", "is a CSV file"),
        (select(data, "count_nucleus > 99"), "some.csv", "no field matches"),
    ):
        with pytest.raises(MsdmError, match=message):
            save_selection(found, tmp_path / "out" / name)
        assert not (tmp_path / "out").exists()
