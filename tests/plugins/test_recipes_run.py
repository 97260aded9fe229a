"""Every shipped recipe, at toy size, from a folder of fields to images."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter

from msdm_kit.core.checkpoint import load_tensors
from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.known import Known
from msdm_kit.core.recipe import Recipe, SampleSection
from msdm_kit.core.sampling import Sampler
from msdm_kit.plugins.build import build_conditioners, build_denoiser
from msdm_kit.plugins.host import get_host
from msdm_kit.plugins.painting import paint
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.run import Run
from msdm_kit.plugins.training import train
from msdm_kit.plugins.training_events import Saved

from ..toy import toy_folder, toy_sample

HOST = get_host()
TOY = [
    "backbone={channels: 32, multipliers: [1, 1], blocks: 1, attention_strides: [], head_channels: 32}",
    "backbone.groups=8",
    "data.crop=32",
    "train={steps: 2, batch: 2, accumulate: 1, save_every: 2, validate_every: 2, preview_every: 2}",
    "train.epochs=null",
    "sample.steps=2",
]


def toy_recipe(name: str, *changes: str) -> Recipe:
    narrow = [
        f"injectors.{i}.hidden=8"
        for i, entry in enumerate(load_recipe(name).injectors)
        if entry.type == "spade"
    ]
    return load_recipe(name, [*TOY, *narrow, *changes])


@pytest.mark.parametrize("name", HOST.names("recipe"))
def test_every_recipe_trains_and_samples(name, tmp_path):
    splits = ["train", "train", "train", "val"]
    data = toy_folder(tmp_path / "data", ["a", "b", "c", "v"], splits)
    recipe = toy_recipe(name)
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
    image = torch.stack([torch.from_numpy(s.image) for s in samples])
    known = Known(image, image[:, :1] > 0) if settings.needs_image else None
    out = sampler.draw(signals, ids=["x", "y"], size=(32, 32), seed=0, known=known)
    assert out.shape == (2, 3, 32, 32)
    assert out.isfinite().all()


@pytest.mark.parametrize("name", ["adm", "nasdm", "diffmix", "palette", "stain-transfer", "inpaint"])
def test_the_recipes_of_the_field_paint_pairs(name, tmp_path):
    """With all that their section `sample` asks for: masks that are changed, images that are started from."""
    data = toy_folder(tmp_path / "data", list("abcde"), ["train", "train", "train", "val", "val"])
    rows = [f"{id},nucleus,{k},{kind}" for id in "abcde" for k, kind in ((1, "epithelial"), (2, "plasma"))]
    (data / "instances.csv").write_text("\n".join(["id,kind,label,class", *rows]) + "\n")
    # of the two instances of a toy field, a third is none
    all_twice = ["sample.mask_operations.0.fraction=1.0"] if name == "inpaint" else []
    recipe = toy_recipe(name, *all_twice)
    run = train(recipe, data, tmp_path / "run", device="cpu")
    summary = paint(run, data, tmp_path / "out", n=2, device="cpu")
    assert summary.pairs == 2
    painted = FieldDataset(tmp_path / "out", masks=recipe.data.masks)
    assert all(
        json.loads(row["sampling"]).get("start", "noise") == recipe.sample.start for row in painted.rows
    )
    real = FieldDataset(data, masks=recipe.data.masks)
    for row in painted.rows:
        new, old = painted.by_id(row["id"]), real.by_id(row["source_morphology"])
        if name == "inpaint":
            changed = np.logical_or.reduce([new.masks[k] != old.masks[k] for k in new.masks])
            near = maximum_filter(changed, size=2 * recipe.sample.keep_margin + 1)
            assert changed.any()
            np.testing.assert_array_equal(new.image[:, ~near], old.image[:, ~near])
            assert (new.image[:, near] != old.image[:, near]).mean() > 0.9
        if name == "diffmix":
            assert row["mask_operations"]
