"""`msdm-kit segment` and the segmenter of the quality filter, as a user runs them."""

import json

import numpy as np
import pytest

from msdm_kit.core.fields import read_field
from msdm_kit.core.images import save_image, save_labels
from msdm_kit.core.manifest import read_manifest, write_manifest

from ..discs import disc_field

LEARNS = "scratch-small:epochs=20,crops=8,batch=2,learning_rate=0.01,crop=64,channels=[16,32]"


@pytest.fixture
def discs(tmp_path):
    """A data set of discs: four fields to train on, one to validate on, two to test on."""
    folder = tmp_path / "discs"
    rows = []
    for i, split in enumerate(("train",) * 4 + ("val",) + ("test",) * 2):
        field = disc_field(i)
        save_image(folder / "images" / f"{field.id}.png", field.image)
        save_labels(folder / "nuclei" / f"{field.id}.png", field.masks["nucleus"])
        rows.append({"id": field.id, "split": split})
    write_manifest(folder / "metadata.csv", rows)
    return folder


def test_train_predict_and_evaluate(msdm, discs, tmp_path, threads):
    model, found = tmp_path / "model", tmp_path / "found"
    words = ("--kind", "nucleus", "--segmenter", LEARNS, "--device", "cpu", "--threads", "1")
    outcome = msdm("segment", "train", discs, model, *words)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0] == (
        "training on 4 fields of split train in discs, validating on 1 fields of split val in discs"
    )
    assert lines[-1].startswith("28 instances of kind nucleus, loss ")
    facts = json.loads((model / "segmenter.json").read_text())
    assert (facts["train_fields"], facts["validation_fields"], facts["seed"]) == (4, 1, 0)
    outcome = msdm("segment", "predict", model, discs, found, "--split", "test")
    assert (outcome.code, outcome.err) == (0, "")
    last = outcome.out.splitlines()[-1]
    assert last.startswith("2 fields with ")
    assert int(last.split()[3]) > 7  # of 14 discs
    assert [row["id"] for row in read_manifest(found / "metadata.csv")] == ["d5", "d6"]
    before, after = (read_field(folder, "d5", ["nucleus"])[0] for folder in (discs, found))
    assert (before.image == after.image).all()
    outcome = msdm("evaluate", "segmentation", found, discs, "--split", "test", "--out", tmp_path / "scores")
    assert (outcome.code, outcome.err) == (0, "")
    # what was predicted is trained on beside the rest, and twice the same seed is the same model
    again = ("--with", found, "--split", "all", *words)
    assert msdm("segment", "train", discs, tmp_path / "more", *again).code == 0
    assert msdm("segment", "train", discs, tmp_path / "same", *words).code == 0
    more, same = (json.loads((tmp_path / n / "segmenter.json").read_text()) for n in ("more", "same"))
    assert (more["train_fields"], more["validation_fields"]) == (9, 0)
    assert same == facts


def test_mistakes_are_one_line(msdm, discs, tmp_path):
    train = ("segment", "train", discs, tmp_path / "out")
    find = ("segment", "predict")
    for words, named in [
        ((*train, "--kind", "nucleus", "--segmenter", "scratch-smal"), "did you mean 'scratch-small'"),
        ((*train, "--kind", "nucleus", "--segmenter", "scratch-small:epochs=3"), "epochs"),
        ((*train, "--kind", "nucleus", "--segmenter", "cpnet"), "needs Cellpose 3"),
        ((*train, "--kind", "nucleus", "--segmenter", "cpsam"), "hf download"),
        ((*train, "--kind", "cell"), "cells is missing"),
        ((*train, "--kind", "nucleus", "--split", "test", "--validation", "test"), "give two"),
        ((*train, "--kind", "nucleus", "--split", "none"), "no row of split 'none'"),
        ((*train, "--kind", "nucleus", "--with", tmp_path / "no"), "no data folder"),
        (("segment", "train", discs, discs, "--kind", "nucleus"), "not an empty folder"),
        (train, "--kind"),
        ((*find, tmp_path / "no", discs, tmp_path / "out"), "no folder"),
        ((*find, discs, discs, tmp_path / "out"), "holds no segmenter.json"),
        ((*find, "cpsam:weights=none", discs, tmp_path / "out", "--kind", "cell"), "no file none"),
        ((*find, discs, discs, discs / "out"), "lies in"),
    ]:
        outcome = msdm(*words)
        assert outcome.code == 2, words
        assert named in outcome.err, words
        assert outcome.err.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_paintings_are_kept_by_what_a_segmenter_finds(msdm, data, recipe, tmp_path, monkeypatch, threads):
    run, model = tmp_path / "run", tmp_path / "model"
    assert msdm("train", recipe, "--data", data, "--out", run, "--set", "train.steps=1").code == 0
    tiny = "scratch-small:epochs=11,crops=1,crop=32,channels=[4,8]"
    assert msdm("segment", "train", data, model, "--kind", "nucleus", "--segmenter", tiny).code == 0

    def finds(self, image):
        # of the two instances of a field one, or none, by the colour that it was painted in
        labels = np.zeros(image.shape[1:], np.int32)
        if float(image.mean()) > bound:
            labels[3:11, 3:10] = 1
        return labels

    monkeypatch.setattr("msdm_kit.plugins.segmenters.flow_segmenter.FlowSegmenter.segment", finds)
    bound = -2.0
    words = (
        "sample",
        run,
        "--data",
        data,
        "--split",
        "all",
        "--n",
        "6",
        "--steps",
        "1",
        "--segmenter",
        model,
    )
    outcome = msdm(*words, "--out", tmp_path / "plain")
    assert (outcome.code, outcome.err) == (0, "")
    rows = read_manifest(tmp_path / "plain" / "metadata.csv")
    assert {row["segmenter_agreement"] for row in rows} == {str(2 / 3)}
    means = sorted(
        float(read_field(tmp_path / "plain", row["id"], ["nucleus"])[0].image.mean()) / 127.5 - 1
        for row in rows
    )
    bound = (means[2] + means[3]) / 2
    outcome = msdm(*words, "--out", tmp_path / "out", "--min-agreement", "0.5")
    assert (outcome.code, outcome.err) == (0, "")
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    for line in (
        "accepted 3 of 6",
        "acceptance rate, of 6 paintings 50.0 %",
        "rejected, not segmenter_agreement >= 0.5 3",
        "agreement of the segmenter's masks (F1) 0.667",
    ):
        assert line in lines
    apart = read_manifest(tmp_path / "out.rejected" / "metadata.csv")
    assert {row["rejected_because"] for row in apart} == {"segmenter_agreement 0 < 0.5"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["segmenter_agreement"] == pytest.approx(2 / 3)
    for more, named in [
        (("--min-agreement", "1.5"), "--min-agreement 1.5: the agreement of a segmenter's masks is an F1"),
        (("--segmenter", model, "--min-agreement", "0.5"), "2 segmenters find masks of kind 'nucleus'"),
        (("--solver-sweep",), "what filters"),
    ]:
        outcome = msdm(*words, "--out", tmp_path / "no", *more)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert named in outcome.err
    outcome = msdm("sample", run, "--data", data, "--out", tmp_path / "no", "--min-agreement", "0.5")
    assert (outcome.code, "give --segmenter MODEL as well" in outcome.err) == (2, True)
    assert not list(tmp_path.glob("no*"))


def test_ctrl_c_leaves_no_model(msdm, discs, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    tiny = "scratch-small:epochs=11,crops=1,crop=32,channels=[4,8]"
    monkeypatch.setattr("msdm_kit.plugins.segmenters.network.SmallUNet.forward", interrupt)
    outcome = msdm("segment", "train", discs, tmp_path / "m", "--kind", "nucleus", "--segmenter", tiny)
    assert (outcome.code, outcome.err) == (130, "stopped\n")
    assert [path.name for path in tmp_path.iterdir()] == ["discs"]
