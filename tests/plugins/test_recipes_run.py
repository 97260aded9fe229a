"""Every shipped recipe, at toy size, from a folder of fields to images."""

from typing import Any

import pytest
import torch

from msdm_kit.core.checkpoint import load_tensors
from msdm_kit.core.recipe import SampleSection
from msdm_kit.core.sampling import Sampler
from msdm_kit.plugins.build import build_conditioners, build_denoiser
from msdm_kit.plugins.host import get_host
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.run import Run
from msdm_kit.plugins.training import Saved, train

from ..toy import toy_folder, toy_sample

HOST = get_host()
TOY = [
    "backbone={channels: 32, multipliers: [1, 1], blocks: 1, attention_strides: [], head_channels: 32}",
    "backbone.groups=8",
    "injectors.0.hidden=8",
    "data.crop=32",
    "train={steps: 2, batch: 2, accumulate: 1, save_every: 2, validate_every: 2, preview_every: 2}",
    "train.epochs=null",
    "sample.steps=2",
]


@pytest.mark.parametrize("name", HOST.names("recipe"))
def test_every_recipe_trains_and_samples(name, tmp_path):
    splits = ["train", "train", "train", "val"]
    data = toy_folder(tmp_path / "data", ["a", "b", "c", "v"], splits)
    recipe = load_recipe(name, TOY)
    events: list[Any] = []
    folder = train(recipe, data, tmp_path / "run", device="cpu", listener=events.append)
    run = Run(folder)
    assert any(isinstance(e, Saved) and e.step == 2 for e in events)
    assert run.preview(2).stat().st_size > 1000

    tensors, facts = load_tensors(run.weights)
    conditioners = build_conditioners(recipe, facts=facts["conditioners"])
    denoiser = build_denoiser(recipe, conditioners)
    denoiser.load_state_dict(tensors)
    denoiser.eval()
    samples = [toy_sample(i, 32) for i in range(2)]
    with torch.no_grad():
        signals = denoiser.encode(
            {n: c.collate([c.observe(s) for s in samples]) for n, c in conditioners.items()}
        )
    settings = SampleSection(**{**recipe.sample.model_dump(), "precision": "fp32"})
    sampler = Sampler(denoiser, settings, HOST.load("solver", settings.solver))
    out = sampler.draw(signals, ids=["x", "y"], size=(32, 32), seed=0)
    assert out.shape == (2, 3, 32, 32)
    assert out.isfinite().all()
