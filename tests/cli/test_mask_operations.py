"""Masks changed before they are painted, and masks that were synthesised, as a user paints them."""

import json
import shlex

import numpy as np
import pytest

from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.images import read_labels


def refuses(outcome, named):
    assert (outcome.code, outcome.out) == (2, "") or outcome.code == 2
    assert named in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.fixture
def run(msdm, data, recipe, tmp_path):
    folder = tmp_path / "run"
    assert msdm("train", recipe, "--data", data, "--out", folder, "--set", "train.steps=1").code == 0
    return folder


def labels(folder, id):
    return read_labels(folder / "nuclei" / f"{id}.png").astype(int)


def test_operations_change_the_masks_that_are_written_and_are_recorded(msdm, data, run, tmp_path):
    (tmp_path / "ops.yaml").write_text("mask_operations: [{type: drop_instances, fraction: 0.5}]\n")
    flags = (
        f"--versions 2 --split val --steps 1 --seed 3 --mask-op {tmp_path / 'ops.yaml'} --mask-op flip_turn"
    )
    out, again = tmp_path / "out", tmp_path / "again"
    outcome = msdm("sample", run, "--data", data, "--out", out, *shlex.split(flags))
    assert (outcome.code, outcome.err) == (0, "")
    painted = FieldDataset(out, masks=["nucleus"])
    assert painted.ids == ["f4_v1", "f5_v1", "f4_v2", "f5_v2"]
    for row in painted.rows:
        record = json.loads(row["mask_operations"])
        assert record == {
            "operations": [
                {"type": "drop_instances", "fraction": 0.5},
                {"type": "flip_turn", "flips": True, "turns": True},
            ],
            "seed": 3,
        }
        source, made = labels(data, row["source_morphology"]), labels(out, row["id"])
        (kept,) = set(np.unique(made)) - {0}
        assert (made == kept).sum() == (source == kept).sum()
    assert len({labels(out, id).tobytes() for id in painted.ids}) > 2, "each version is changed anew"
    msdm("sample", run, "--data", data, "--out", again, *shlex.split(flags))
    for id in painted.ids:
        np.testing.assert_array_equal(labels(out, id), labels(again, id))
    summary = json.loads((out / "summary.json").read_text())
    assert "mask_adherence_real" not in summary, "there is no real image of these masks"
    msdm("sample", run, "--data", out, "--out", tmp_path / "third", "--n", "1", "--steps", "1")
    (row,) = FieldDataset(tmp_path / "third", masks=["nucleus"]).rows
    assert row["mask_operations"] == "", "nothing was done to this one"


def test_operations_of_the_recipe_go_with_the_run(msdm, data, recipe, tmp_path):
    run, words = tmp_path / "run", "sample.mask_operations=[{type: drop_instances, fraction: 0.5}]"
    flags = ("--set", "train.steps=1", "--set", words)
    assert msdm("train", recipe, "--data", data, "--out", run, *flags).code == 0

    def done(name, *flags):
        out = tmp_path / name
        words = ("--split", "val", "--n", "1", "--steps", "1", *flags)
        assert msdm("sample", run, "--data", data, "--out", out, *words).code == 0
        (row,) = FieldDataset(out, masks=["nucleus"]).rows
        assert "mask_operations" not in json.loads(row["sampling"]), "they have a column of their own"
        record = row.get("mask_operations", "")
        return [step["type"] for step in json.loads(record)["operations"]] if record else []

    assert done("recipe") == ["drop_instances"]
    assert done("flag", "--mask-op", "flip_turn") == ["flip_turn"]
    assert done("none", "--mask-op", "none") == []
    sweep = ("--solver-sweep", "--solver", "heun", "--n", "1", "--split", "val")
    outcome = msdm("sample", run, "--data", data, "--out", tmp_path / "sweep", *sweep, "--mask-op", "mix")
    assert outcome.code == 2
    assert "no other field has the size of" in outcome.err


def test_a_recipe_without_operations_again(msdm, data, recipe, tmp_path):
    words = "sample: {steps: 2, mask_operations: [{type: flip_trun}]}"
    recipe.write_text(recipe.read_text().replace("sample: {steps: 2}", words))
    outcome = msdm("train", recipe, "--data", data, "--out", tmp_path / "run", "--set", "train.steps=1")
    refuses(outcome, "sample.mask_operations.0.type: no mask_operation 'flip_trun'; did you mean")
    flags = ("--set", "train.steps=1", "--set", "sample.mask_operations=[]")
    assert msdm("train", recipe, "--data", data, "--out", tmp_path / "run", *flags).code == 0


def test_mix_names_the_other_field(msdm, data, run, tmp_path):
    flags = "--n 2 --split val --steps 1 --mask-op mix:fraction=0.5"
    out = tmp_path / "out"
    assert msdm("sample", run, "--data", data, "--out", out, *shlex.split(flags)).code == 0
    others = [
        json.loads(row["mask_operations"])["operations"][0]["other"]
        for row in FieldDataset(out, masks=["nucleus"]).rows
    ]
    assert others == ["f5", "f4"]
    flags = "--n 1 --split val --steps 1 --mask-op mix"
    outcome = msdm("sample", run, "--data", data, "--out", tmp_path / "one", *shlex.split(flags))
    refuses(outcome, "no other field has the size of")
    assert not (tmp_path / "one").exists()


def test_synthesised_masks_are_painted_in_the_colours_of_donors(msdm, data, run, tmp_path):
    layouts, out = tmp_path / "layouts", tmp_path / "out"
    outcome = msdm("data", "synthesise", data, layouts, "--n", "2", "--size", "40x32", "--density", "4000")
    assert (outcome.code, outcome.err) == (0, "")
    assert "12 shapes of" in outcome.out
    assert "2 fields with 10 of kind nucleus" in outcome.out
    assert "measured: 3906 per megapixel" in outcome.out
    assert not (layouts / "images").exists()
    refuses(msdm("sample", run, "--data", layouts, "--out", out), "--donors DIR")
    assert not out.exists()
    flags = f"--donors {data} --versions 2 --steps 1"
    outcome = msdm("sample", run, "--data", layouts, "--out", out, *shlex.split(flags))
    assert (outcome.code, outcome.err) == (0, "")
    made = FieldDataset(out, masks=["nucleus"])
    assert len(made) == 4
    for row in made.rows:
        assert row["source_appearance"] == row["source_metadata"]
        assert row["source_appearance"].startswith("data/f")
        assert row["indication"] in ("left", "right")
        np.testing.assert_array_equal(labels(out, row["id"]), labels(layouts, row["source_morphology"]))
    colours = "--colour nucleus=90,60,140:5,5,5 --set-metadata indication=left --steps 1 --n 1"
    outcome = msdm("sample", run, "--data", layouts, "--out", tmp_path / "given", *shlex.split(colours))
    assert (outcome.code, outcome.err) == (0, "")


def test_mistakes(msdm, data, run, tmp_path):
    bad, out = tmp_path / "bad.yaml", tmp_path / "out"
    bad.write_text("operations: []\n")
    for text, named in [
        ("drop_instance:fraction=0.2", "did you mean 'drop_instances'"),
        ("drop_instances", "fraction: missing"),
        ("drop_instances:fraction=1", "less than 1"),
        ("drop_instances:fractoin=0.2", "did you mean 'fraction'"),
        ("drop_instances:0.2", "write NAME or NAME:KEY=VALUE"),
        ("drop_instances:fraction=[", "the settings cannot be read"),
        (":", "write NAME or NAME:KEY=VALUE"),
        ("scale_instances:factor=[2, 1]", "the lower first"),
        ("elastic:amplitude=.nan", "finite"),
        (str(bad), "must hold the key mask_operations alone"),
        (str(tmp_path / "no.yaml"), "no.yaml: cannot be read"),
    ]:
        refuses(msdm("sample", run, "--data", data, "--out", out, "--mask-op", text), named)
        assert not out.exists(), text
    refuses(
        msdm("sample", run, "--data", data, "--out", out, "--donors", data, "--appearance-from", "f1"),
        "give one of them",
    )
    refuses(msdm("sample", run, "--data", data, "--out", out, "--donors", tmp_path / "no"), "no data folder")
    for extra, named in [
        (("--size", "12"), "write HEIGHTxWIDTH"),
        (("--n", "0"), "--n"),
        (("--eccentricity", "2"), "give a mean eccentricity from"),
        (("--select", "x.csv", "--split", "val"), "give one of them"),
    ]:
        refuses(msdm("data", "synthesise", data, out, *extra), named)
        assert not out.exists(), extra
