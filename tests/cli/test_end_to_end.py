"""Train, resume, sample: on a terminal's commands alone."""

import csv
import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from msdm_kit import FieldDataset

from ..pages import checked


@pytest.fixture
def run(msdm, data, recipe, tmp_path):
    folder = tmp_path / "run"
    outcome = msdm("train", recipe, "--data", data, "--out", folder)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    return folder, outcome.out


def test_training_says_what_it_does(run, data):
    folder, text = run
    assert "4 training fields, 4 steps, on cpu" in text
    assert re.search(r"step 4/4  loss \d\.\d+  \d+\.\d images/s  elapsed \d+ s  remaining 0 s", text)
    assert re.search(r"step 2: validation loss  t=0.125 \d\.\d+  t=0.375", text)
    assert f"step 4: preview {folder}/previews/step-000004.png" in text
    assert f"step 4: saved {folder}/weights.safetensors" in text
    assert f"report: {folder}/report.html" in text
    page = checked((folder / "report.html").read_text(encoding="utf-8"))
    assert "tiny: training" in page.said
    assert (page.count("svg"), page.count("img")) == (3, 1)
    assert f"paint with: msdm-kit sample {folder} --data {data} --n 8 --out {folder}-samples" in text


def test_a_finished_run_resumes_to_itself(run, msdm, data, recipe):
    folder, _ = run
    before = load_file(folder / "weights.safetensors")
    outcome = msdm("train", recipe, "--data", data, "--out", folder, "--resume")
    assert outcome.code == 0, outcome.err
    after = load_file(folder / "weights.safetensors")
    assert all((before[k] == after[k]).all() for k in before)


def test_sampling_makes_a_data_set_that_can_be_traced(run, msdm, data, tmp_path):
    _, text = run
    words = shlex.split(text.rpartition("paint with: ")[2])
    words[words.index("--n") + 1] = "3"
    outcome = msdm(*words[1:])
    assert outcome.code == 0, outcome.err
    out = tmp_path / "run-samples"
    made = FieldDataset(out, masks=["nucleus"])
    assert made.ids == ["f4", "f5", "f4_v2"]
    for id in made.ids:
        mask, source = (
            np.array(Image.open(root / "nuclei" / f"{name}.png"))
            for root, name in ((out, id), (data, id.removesuffix("_v2")))
        )
        np.testing.assert_array_equal(mask, source)
    a, b = (made.by_id(id).image for id in ("f4", "f4_v2"))
    assert np.abs(a - b).max() > 0
    with (out / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert row["source_morphology"] == row["source_metadata"] == row["id"].removesuffix("_v2")
        assert row["recipe"] == "tiny"
        assert row["seed"] == "0"
        assert len(row["weights_sha256"]) == 64
        assert json.loads(row["sampling"])["steps"] == 2
    assert Image.open(out / "contact-sheet.png").size[0] > 100
    assert json.loads((out / "summary.json").read_text())["pairs"] == 3
    page = checked((out / "report.html").read_text(encoding="utf-8"))
    assert "tiny: 3 painted pairs" in page.said
    assert "f4_v2 f4 f4 f4" in page.said, "where each facet comes from"
    assert rows[0]["weights_sha256"] in page.said
    assert re.search(r"^pairs +3", outcome.out, re.M)
    assert re.search(r"^of fields in the training split +0 of 3", outcome.out, re.M)
    assert re.search(r"^mask adherence, painted \(Dice\) +0\.\d{3}", outcome.out, re.M)
    assert re.search(r"^colour error \(levels of 255\) +\d+\.\d", outcome.out, re.M)
    assert f"pairs: {out}\ncontact sheet: {out}/contact-sheet.png\nreport: {out}/report.html\n" in outcome.out


@pytest.mark.usefixtures("threads")
def test_flags_change_the_recipes_settings(run, msdm, data, tmp_path):
    folder, _ = run
    out = tmp_path / "out"
    flags = "--n 1 --steps 3 --solver ddim --spacing leading --guidance morphology=1.5 --eta 0.5 --seed 7"
    rest = "--split train --batch 1 --precision bf16 --device cpu --threads 1"
    outcome = msdm("sample", folder, "--data", data, "--out", out, *flags.split(), *rest.split())
    assert outcome.code == 0, outcome.err
    with (out / "metadata.csv").open() as file:
        (row,) = csv.DictReader(file)
    wanted = {"solver": "ddim", "steps": 3, "spacing": "leading", "eta": 0.5, "precision": "bf16"}
    wanted |= {"guidance": {"morphology": 1.5}, "clip": True}
    assert json.loads(row["sampling"]) == wanted
    assert (row["seed"], row["id"]) == ("7", "f0")
    assert "1 of 1" in outcome.out


def test_the_seed_makes_the_image(run, msdm, data, tmp_path):
    folder, _ = run
    images = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        msdm("sample", folder, "--data", data, "--n", "1", "--seed", seed, "--out", tmp_path / name)
        images.append((tmp_path / name / "images" / "f4.png").read_bytes())
    assert images[0] == images[1] != images[2]
