"""Training and validation fields of a folder, and what the user is told of them."""

import pickle

import numpy as np

from msdm_kit.core.images import save_labels
from msdm_kit.core.seeds import seed_for
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.splits import HELD_OUT, open_splits

from ..toy import toy_folder

RECIPE = load_recipe("quickstart")


def test_without_a_split_column_fields_are_held_out(tmp_path):
    ids = [f"x{i}" for i in range(14)]
    held = [i for i in ids if seed_for("held out", i) % HELD_OUT == 0]
    assert 0 < len(held) < 6
    folder = toy_folder(tmp_path / "data", ids)
    splits = open_splits(RECIPE, folder)
    assert splits.validation.ids == sorted(held)
    assert splits.train.ids == [i for i in ids if i not in held]
    assert f"{len(held)} of 14 fields held out" in splits.notes[0]
    more = toy_folder(tmp_path / "more", [*ids[::-1], "y1"])
    kept = set(open_splits(RECIPE, more).train.ids)
    assert kept - {"y1"} == set(splits.train.ids)


def test_masks_without_instances_are_noted(tmp_path):
    folder = toy_folder(tmp_path / "d", ["a", "b", "c"], ["train", "train", "val"])
    before = open_splits(RECIPE, folder)
    assert before.notes == ()
    first = before.train[0]
    save_labels(folder / "nuclei" / f"{first.id}.png", np.where(first.masks["nucleus"], 255, 0))
    splits = open_splits(RECIPE, folder)
    (note,) = splits.notes
    assert note.startswith(f"1 of {len(splits.train)} masks of kind 'nucleus' have one label alone")


def test_a_training_split_of_all_fields_says_that_validation_is_trained_on(tmp_path):
    folder = toy_folder(tmp_path / "d", ["a", "b", "c"], ["train", "train", "val"])
    splits = open_splits(load_recipe("quickstart", ["data.train_split=all"]), folder)
    assert len(splits.train) == 3
    (note,) = splits.notes
    assert "trained on as well" in note


def test_a_split_column_without_validation_rows(tmp_path):
    folder = toy_folder(tmp_path / "d", [f"f{i}" for i in range(6)], ["train"] * 5 + ["test"])
    splits = open_splits(RECIPE, folder)
    assert splits.validation is None
    assert len(splits.train) == 5
    assert "no row of the manifest has split 'val'" in splits.notes[0]


def test_fields_have_the_classes_of_their_instances(tmp_path):
    folder = toy_folder(tmp_path / "d", ["a", "b", "v"], ["train", "train", "val"])
    assert open_splits(RECIPE, folder).train[0].classes == {}
    lines = ["id,kind,label,class", "a,nucleus,1,plasma", "v,cell,2,tumour"]
    (folder / "instances.csv").write_text("\n".join(lines) + "\n")
    splits = open_splits(RECIPE, folder)
    assert [splits.train.by_id(id).classes for id in "ab"] == [{"nucleus": {1: "plasma"}}, {}]
    assert splits.train.subset(["a"])[0].classes == {"nucleus": {1: "plasma"}}
    assert pickle.loads(pickle.dumps(splits.train))[0].classes == {"nucleus": {1: "plasma"}}
    assert splits.validation[0].classes == {"cell": {2: "tumour"}}
