"""Training and painting in latents as a user does: every way of sampling, and weights that are exchanged."""

import json
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from msdm_kit.core.checkpoint import load_tensors
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.training import train

from ..autoencoders import save_kl
from .conftest import RECIPE, write_data


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Six fields of 24 x 20, which is no multiple of what the network needs in width."""
    return write_data(tmp_path_factory.mktemp("fields"))


@pytest.fixture(scope="module")
def trained(fields, tmp_path_factory):
    """A run in the latents of the Haar transform."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(RECIPE)
    recipe = load_recipe(folder / "tiny.yaml", ["autoencoder={type: haar, levels: 2}", "train.steps=2"])
    return train(recipe, fields, folder / "run", device="cpu")


def pictures(folder):
    return {path.stem: np.asarray(Image.open(path)) for path in sorted((folder / "images").glob("*.png"))}


def test_every_way_of_sampling(msdm, fields, trained, tmp_path):
    assert len(list((trained / "previews").iterdir())) == 1
    facts = load_tensors(trained / "weights.safetensors")[1]
    assert {"kind": "autoencoder", "name": "haar"}.items() <= facts["plugins"][0].items()
    words = ["--data", fields, "--n", "2", "--device", "cpu"]
    found = {}
    for name, more in {
        "plain": [],
        "windows": ["--window", "16", "--overlap", "4"],
        "start": ["--start", "image", "--strength", "0.3"],
        "keep": ["--keep", "outside:nucleus"],
    }.items():
        outcome = msdm("sample", trained, "--out", tmp_path / name, *words, *more)
        assert outcome.code == 0, outcome.err
        found[name] = pictures(tmp_path / name)
        assert [image.shape for image in found[name].values()] == [(24, 20, 3)] * 2
    assert not any(np.array_equal(found["plain"][id], found["start"][id]) for id in found["plain"])
    for id, image in found["keep"].items():
        source = (tmp_path / "keep" / "metadata.csv").read_text().splitlines()
        row = dict(
            zip(
                source[0].split(","),
                next(s for s in source if s.startswith(f"{id},")).split(","),
                strict=False,
            )
        )
        real = np.asarray(Image.open(fields / "images" / f"{row['source_morphology']}.png"))
        outside = np.asarray(Image.open(fields / "nuclei" / f"{row['source_morphology']}.png")) == 0
        assert np.array_equal(image[outside], real[outside])
        assert not np.array_equal(image, real)


def test_illegal_windows_say_what_is_legal(msdm, fields, trained, tmp_path):
    words = ["--data", fields, "--out", tmp_path / "out", "--device", "cpu"]
    for more, reason in (
        (
            ["--window", "8", "--overlap", "3"],
            "3 pixels, which is not a multiple of 4, the stride of the autoencoder",
        ),
        (["--window", "12"], "a window of 12 pixels is not a multiple of 8"),
    ):
        outcome = msdm("sample", trained, *words, *more)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert reason in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_large_field(msdm, fields, trained, tmp_path):
    labels = np.zeros((37, 50), np.uint16)
    labels[3:12, 4:11], labels[20:30, 30:44] = 7, 9
    tifffile.imwrite(tmp_path / "nuclei.tif", labels)
    out = tmp_path / "large.ome.tif"
    words = ["--window", "16", "--overlap", "4", "--data", fields, "--look", "f1", "--device", "cpu"]
    outcome = msdm("paint-field", trained, tmp_path / "nuclei.tif", out, *words)
    assert outcome.code == 0, outcome.err
    assert tifffile.imread(out).shape == (37, 50, 3)
    assert json.loads(out.with_name("large.json").read_text())["sampling"]["window"] == 16


def test_the_crop_must_suit_the_latent(msdm, data, recipe, tmp_path):
    words = ["--set", "autoencoder={type: haar, levels: 4}", "--set", "data.crop=16"]
    outcome = msdm("train", recipe, "--data", data, "--out", tmp_path / "run", *words)
    assert outcome.code == 2
    assert "16 is not a multiple of 32, which the backbone needs in latents of stride 16" in outcome.err
    assert not (tmp_path / "run").exists()


def test_weights_of_the_autoencoder_are_held_against_those_of_training(msdm, data, recipe, tmp_path):
    first, run = save_kl(tmp_path / "kl"), tmp_path / "run"
    given = ["--set", f"autoencoder={{type: kl, model: {first}}}", "--device", "cpu"]
    words = ["train", recipe, "--data", data, "--out", run, *given]
    assert msdm(*words, "--dry-run").code == 0
    assert not run.exists()
    outcome = msdm(*words, "--set", "train.steps=2")
    assert outcome.code == 0, outcome.err
    tensors, facts = load_tensors(run / "weights.safetensors")
    assert len(facts["autoencoder"]) == 64
    assert not any("network" in name for name in tensors)
    sample = ["sample", run, "--data", data, "--n", "1", "--device", "cpu", "--out"]
    assert msdm(*sample, tmp_path / "one").code == 0
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}

    other = save_kl(tmp_path / "other", seed=1)
    shutil.copytree(other, first, dirs_exist_ok=True)
    for outcome in (msdm(*sample, tmp_path / "two"), msdm(*words, "--set", "train.steps=4", "--resume")):
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert f"SHA-256 {facts['autoencoder'][:12]}" in outcome.err
    shutil.rmtree(first)
    outcome = msdm(*sample, tmp_path / "two")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert f"no autoencoder folder '{first}'" in outcome.err
    assert not (tmp_path / "two").exists()
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_autoencoders_are_shown(msdm):
    outcome = msdm("plugins", "show", "haar")
    assert outcome.code == 0
    assert "48 channels of squares of 4 x 4 pixels at the default settings" in " ".join(outcome.out.split())
    outcome = msdm("plugins", "show", "autoencoder", "kl")
    assert outcome.code == 0
    assert "model" in outcome.out
