"""A checkpoint with a SHA-256 that fits, of a run that there never was: one line, and nothing is built."""

import pytest
import torch

from msdm_kit.core.checkpoint import save_tensors
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.optimise import Optimiser
from msdm_kit.core.recipe import Recipe
from msdm_kit.plugins.build import build_conditioners, build_denoiser
from msdm_kit.plugins.run import Run, run_facts
from msdm_kit.plugins.training import saved_denoiser

RECIPE = Recipe.model_validate(
    {
        "name": "tiny",
        "data": {"masks": ["nucleus"], "crop": 16},
        "conditioners": {"c": {"type": "class_label", "column": "organ"}},
        "injectors": [{"type": "film", "from": ["c"], "at": ["embedding"]}],
        "backbone": {
            "type": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "attention_strides": [],
            "head_channels": 8, "groups": 4,
        },
        "train": {"steps": 3, "batch": 2},
    }
)  # fmt: skip
KEY = "backbone.time_embed.0.weight"


@pytest.fixture
def saved():
    rows = [{"id": "a", "organ": "colon"}, {"id": "b", "organ": "skin"}]
    denoiser = build_denoiser(RECIPE, build_conditioners(RECIPE, rows=rows))
    optimiser = Optimiser(denoiser, RECIPE.train, total=3, drop={})
    for p in denoiser.parameters():
        p.grad = torch.ones_like(p)
    optimiser.optimizer.step()
    tensors, state = optimiser.state()
    facts = run_facts(RECIPE, denoiser, 1) | state
    return tensors, facts | {"step": 1, "fields": "", "due": [], "validation": None}


def go_on(folder, tensors, facts):
    run = Run(folder)
    save_tensors(run.checkpoints.path(1), tensors, facts)
    state = run.claim(RECIPE, resume=True)
    optimiser = Optimiser(saved_denoiser(RECIPE, state, run), RECIPE.train, total=3, drop={})
    optimiser.load(state.tensors, state.facts)
    return optimiser


def test_a_sound_one_is_taken_over(tmp_path, saved):
    tensors, facts = saved
    found, state = go_on(tmp_path, tensors, facts).state()
    assert state == {"step": 1, "ema_updates": 0}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("due", 3),
        ("due", "validation"),
        ("due", [["validation"]]),
        ("validation", "0.5"),
        ("validation", [0.5]),
        ("ema_updates", "many"),
        ("ema_updates", -1),
        ("ema_updates", 10**400),
        ("conditioners", []),
    ],
)
def test_facts_that_no_run_has(tmp_path, saved, name, value):
    tensors, facts = saved
    with pytest.raises(MsdmError, match=f"its {name} is .*which no run writes") as caught:
        go_on(tmp_path, tensors, facts | {name: value})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop(f"weights.{KEY}"),
        lambda t: t.pop(f"ema.{KEY}"),
        lambda t: t.pop(f"optimizer.exp_avg.{KEY}"),
        lambda t: t.update({f"ema.{KEY}": torch.zeros(1)}),  # could be spread over any shape
        lambda t: t.update({f"weights.{KEY}": torch.zeros(1)}),
        lambda t: t.update({f"optimizer.step.{KEY}": torch.zeros(3)}),
        lambda t: t.update({f"optimizer.exp_avg_sq.{KEY}": t[f"ema.{KEY}"].double()}),
    ],
)
def test_tensors_of_another_network(tmp_path, saved, change):
    tensors, facts = saved
    change(tensors)
    with pytest.raises(MsdmError, match=r"of another model|do not fit") as caught:
        go_on(tmp_path, tensors, facts)
    assert str(caught.value).isprintable()
