"""A checkpoint of SDM becomes a run that can be painted with."""

import pytest
import torch
from safetensors.torch import load_file

from msdm_kit import Pipeline, load_recipe

from .test_mistakes import refuses


@pytest.fixture
def checkpoint(golden, tmp_path):
    def make(name):
        path = tmp_path / f"{name}.pt"
        torch.save(golden(name).state, path)
        return path

    return make


def test_hv_maps(msdm, golden, checkpoint, data, tmp_path):
    g, run = golden("hv4_cosine"), tmp_path / "run"
    words = ("convert", "sdm", checkpoint("hv4_cosine"), run, "--schedule", "cosine", "--image-size", "32")
    heads = str(g.arguments["unet"]["num_head_channels"])
    outcome = msdm(*words, "--head-channels", heads, "--conditioner", "morphology=hv_maps")
    assert outcome.code == 0, outcome.err
    assert f"paint with: msdm-kit sample {run}" in outcome.out
    recipe = load_recipe(run / "recipe.yaml")
    assert (recipe.name, recipe.data.crop, recipe.diffusion.schedule) == ("hv4_cosine", 32, "cosine")
    assert recipe.diffusion.variance == "fixed_small"
    pipeline = Pipeline.load(run, device="cpu")
    assert pipeline.step == 0
    assert pipeline.recipe == recipe
    numbers = sum(p.numel() for p in pipeline.denoiser.parameters())
    assert numbers == sum(t.numel() for t in g.state.values())


def test_a_converted_run_paints(msdm, golden, checkpoint, data, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    heads = str(golden("hv4_cosine").arguments["unet"]["num_head_channels"])
    # background, one kind, edges: 3 channels, and 4 with a second kind
    words = ("--masks", "nucleus,cell", "--head-channels", heads, "--image-size", "32")
    assert msdm("convert", "sdm", checkpoint("hv4_cosine"), run, *words).code == 0
    (data / "nuclei").rename(data / "both")
    for name in ("nuclei", "cells"):
        (data / name).symlink_to(data / "both")
    outcome = msdm("sample", run, "--data", data, "--out", out, "--n", "1", "--steps", "2")
    assert outcome.code == 0, outcome.err
    assert (out / "images" / "f4.png").exists() or (out / "images" / "f0.png").exists()


def test_learned_variance_and_two_conditions(msdm, golden, checkpoint, tmp_path):
    run = tmp_path / "run"
    heads = str(golden("guide16_linear").arguments["unet"]["num_head_channels"])
    words = ("--conditioner", "morphology=hv_maps", "--conditioner", "colour=rgb_statistics")
    outcome = msdm(
        "convert",
        "sdm",
        checkpoint("guide16_linear"),
        run,
        *words,
        "--head-channels",
        heads,
        "--image-size",
        "32",
    )
    assert outcome.code == 0, outcome.err
    recipe = load_recipe(run / "recipe.yaml")
    assert recipe.diffusion.variance == "learned_range"
    assert recipe.injectors[0].source == ("morphology", "colour")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ["hv4_cosine", "--masks", "nucleus"],
            ["map of 4 channels", "morphology is a map of 3", "hv_maps of 2"],
        ),
        (["hv4_cosine", "--no-edges"], ["map of 4 channels", "label_map with edges of 2 mask kinds"]),
        (["guide16_linear"], ["map of 16 channels", "hv_maps + rgb_statistics of 2 mask kinds"]),
        (["hv4_cosine", "--conditioner", "hv_maps"], ["NAME=TYPE"]),
        (["hv4_cosine", "--conditioner", "morphology=hv_map"], ["did you mean 'hv_maps'?"]),
        (["hv4_cosine", "--conditioner", "words=bert_text"], ["masks"]),
        (["hv4_cosine", "--schedule", "cosin"], ["did you mean 'cosine'?"]),
        (["hv4_cosine", "--image-size", "33"], ["not a multiple of"]),
        (["hv4_cosine", "--head-channels", "7"], ["head_channels 7"]),
    ],
)
def test_what_does_not_fit_is_one_line(msdm, golden, checkpoint, tmp_path, words, named):
    name, *rest = words
    if "--head-channels" not in rest:
        rest += ["--head-channels", str(golden(name).arguments["unet"]["num_head_channels"])]
    if "--image-size" not in rest:
        rest += ["--image-size", "32"]
    refuses(msdm("convert", "sdm", checkpoint(name), tmp_path / "run", *rest), *named)
    assert not (tmp_path / "run").exists()


def test_files_that_are_no_checkpoint(msdm, checkpoint, tmp_path):
    refuses(msdm("convert", "sdm", tmp_path / "none.pt", tmp_path / "run"), "no file")
    (tmp_path / "odd.pt").write_bytes(b"odd")
    refuses(msdm("convert", "sdm", tmp_path / "odd.pt", tmp_path / "run"), "odd.pt")
    refuses(msdm("convert", "sdm", checkpoint("hv4_cosine"), tmp_path), "is not an empty folder")


def test_weights(msdm, golden, checkpoint, tmp_path):
    file, out = checkpoint("hv4_cosine"), tmp_path / "a b" / "model.safetensors"
    outcome = msdm("convert", "weights", file, out)
    assert outcome.code == 0, outcome.err
    state = golden("hv4_cosine").state
    assert f"model.safetensors holds {len(state)} tensors" in outcome.out.replace("\n", " ")
    found = load_file(out)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    written = out.read_bytes()
    refuses(msdm("convert", "weights", file, out), "is there already")
    refuses(msdm("convert", "weights", file, tmp_path / "x.bin"), ".safetensors")
    refuses(msdm("convert", "weights", tmp_path / "none.bin", tmp_path / "x.safetensors"), "no file")
    torch.save({"step": 3}, tmp_path / "odd.bin")
    refuses(msdm("convert", "weights", tmp_path / "odd.bin", tmp_path / "x.safetensors"), "flat dict")
    assert out.read_bytes() == written
    assert not (tmp_path / "x.safetensors").exists()
    assert not list(tmp_path.rglob("*.tmp"))
