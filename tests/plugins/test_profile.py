"""Profiles: parts that add up, events of made-up steps, and advice from made-up numbers."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.autograd.profiler import record_function

from msdm_kit.core.optimise import Optimiser
from msdm_kit.core.recipe import TrainSection
from msdm_kit.plugins import profile
from msdm_kit.plugins.estimate import Checkpointing
from msdm_kit.plugins.profile import IDLE, WAIT, StepProfile, _fill, advise
from msdm_kit.plugins.profile_parts import attribute, regions, tracer
from msdm_kit.plugins.recipe_files import load_recipe

from ..toy import same, toy_batch, toy_denoiser

CPU = torch.device("cpu")
NAMES = ("spade", "cross", "film")


def traced(work) -> dict[str, float]:
    with tracer(CPU) as trace:
        with record_function("step"):
            work()
        torch.ones(3).exp()
    return attribute(trace.events(), device_time=False)


def optimiser(**train) -> Optimiser:
    section = TrainSection(**{"steps": 9, "precision": "fp32", **train})
    return Optimiser(toy_denoiser(*NAMES), section, total=9, drop={})


def profiled(o: Optimiser, batch) -> dict[str, float]:
    with tracer(CPU) as trace, regions(o.denoiser):
        o.step([batch])
    (step,) = (e for e in trace.events() if e.name == "step")
    parts = attribute(trace.events(), device_time=False)
    assert sum(parts.values()) == pytest.approx(1e-6 * step.cpu_time_total, rel=1e-3)
    return parts


def test_a_made_up_step():
    def work():
        a = torch.rand(64, 64, requires_grad=True)
        with record_function("step.network"), record_function("network.decoder"):
            with record_function("network.attention"), record_function("network.convolutions"):
                b = a @ a
            with record_function("network.module"):
                b = b.exp()
        with record_function("step.backward"):
            b.sum().backward()
        with record_function("step.ema"):
            a.detach().mul_(2)

    assert list(traced(work)) == [
        "network, other",
        "decoder: attention",
        "decoder: other",
        "backward: matrix products",
        "backward: other",
        "averaged weights",
        "other",
    ]


def test_the_parts_of_a_step_are_all_of_it():
    o = optimiser()
    batch = toy_batch(o.denoiser, 2)
    parts = profiled(o, batch)
    kinds = ("convolutions", "normalisation and modulation", "attention", "other")
    for name in (
        "noise and time steps",
        "conditions encoded",
        *(f"encoder: {kind}" for kind in kinds),
        *(f"decoder: {kind}" for kind in (*kinds, "conditions prepared")),
        *(f"backward: {kind}" for kind in (*kinds, "matrix products")),
        "loss",
        "gradient norm and clipping",
        "optimiser",
        "averaged weights",
    ):
        assert parts[name] > 0, name
    assert not any("recomputed" in name for name in parts)


def test_recomputation_is_a_part_of_its_own():
    o = optimiser()
    o.denoiser.backbone.checkpointing = True
    assert profiled(o, toy_batch(o.denoiser, 2))["backward: recomputed"] > 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_profiled_step_is_a_step(checkpointing):
    a, b = optimiser(), optimiser()
    batch = toy_batch(a.denoiser, 2)
    for o in (a, b):
        o.denoiser.backbone.checkpointing = checkpointing
    profiled(a, batch)
    b.step([batch])
    assert same(a.state()[0], b.state()[0])
    assert "encode" not in a.denoiser.backbone.__dict__
    assert not any("prepare" in m.__dict__ for m in a.denoiser.modules())
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


def test_parts_are_stretched_on_a_cpu_and_filled_up_on_a_gpu():
    seen = {"a": 1.0, "b": 3.0}
    assert _fill(seen, 10.0, 2.0, device_time=False) == {WAIT: 2.0, "a": 2.0, "b": 6.0}
    assert _fill(seen, 10.0, 2.0, device_time=True) == {WAIT: 2.0, "a": 1.0, "b": 3.0, IDLE: 4.0}
    assert _fill(seen, 4.0, 2.0, device_time=True) == {WAIT: 2.0, "a": 0.5, "b": 1.5, IDLE: 0.0}


CROP = {"read and augment": 0.01, "morphology": 0.03}
BASE = StepProfile(
    device="cuda",
    seconds=1.0,
    images=40,
    parts={"decoder: convolutions": 1.0},
    crop=CROP,
    workers=0,
    checkpointing=False,
    memory=None,
    flops=None,
    peak_flops=1.0,
)


def advice(parts=None, *, needless=True, bf16=False, cores=16, **changes) -> list[str]:
    parts = parts or {}
    rest = {"decoder: convolutions": 1.0 - sum(parts.values())}
    found = replace(BASE, parts=rest | parts, **changes)
    return advise(found, needless=needless, bf16_would_do=bf16, cores=cores)


def test_advice_on_nothing():
    assert advice() == ["nothing stands out: most is 'decoder: convolutions', 100% of the step"]


def test_advice_on_waiting():
    """40 crops of 40 ms are 1.6 s; 0.6 s of a step are not waited: 3 processes make them."""
    assert advice({WAIT: 0.4}) == ["data waits are 40% of the step: set train.workers=3"]
    assert advice({WAIT: 0.4}, cores=3) == ["data waits are 40% of the step: set train.workers=2"]
    (line,) = advice({WAIT: 0.4}, workers=3)
    assert line == "data waits are 40% of the step: of a crop's time most is 'morphology', 30.0 ms"


def test_advice_on_checkpointing():
    parts = {"backward: recomputed": 0.25}
    (line,) = advice(parts, checkpointing=True)
    assert line == (
        "checkpointing costs 25% of the step: memory would do without: set train.checkpointing=auto"
    )
    (line,) = advice(parts, checkpointing=True, needless=False)
    assert "halving train.batch and doubling train.accumulate" in line


@pytest.mark.parametrize("auto_is_on", [False, True])
def test_checkpointing_is_needless_where_the_recipe_asks_for_it_and_auto_would_not(auto_is_on, monkeypatch):
    asked = []

    def choose(denoiser, recipe, device):
        asked.append(recipe.train.checkpointing)
        return Checkpointing(auto_is_on, None)

    monkeypatch.setattr(profile, "choose_checkpointing", choose)
    needless = {
        setting: profile._checkpoints_needlessly(
            toy_denoiser(), load_recipe("quickstart", [f"train.checkpointing={setting}"]), CPU
        )
        for setting in ("auto", "false", "true")
    }
    assert needless == {"auto": False, "false": False, "true": not auto_is_on}
    assert asked == ["auto"], "memory is estimated once, and not where training chooses by itself"


def test_advice_on_an_idle_device_and_on_fp32():
    assert advice({IDLE: 0.3}) == ["the device is idle 30% of the step: raise train.batch"]
    assert advice(bf16=True) == [
        "cuda computes bf16: train.precision=bf16 is faster and takes less memory",
    ]
