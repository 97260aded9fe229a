"""Where numbers stop being finite is found; bf16 is never fp16."""

import ast
import math
from pathlib import Path

import pytest
import torch

import msdm_kit
from msdm_kit.core import guard, precision
from msdm_kit.core.conditioning import Signal, Spec
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.numerics import message, watched
from msdm_kit.core.optimise import Optimiser
from msdm_kit.core.precision import autocast
from msdm_kit.core.recipe import TrainSection

from ..toy import same, toy_batch, toy_denoiser

CPU = torch.device("cpu")


def optimiser(*names, unet=None, **changes):
    section = TrainSection(**{"steps": 9, "precision": "fp32", "lr": 1e-2, **changes})
    return Optimiser(toy_denoiser(*names, unet=unet), section, total=9, drop={})


def said(o, *batches):
    before = {k: v.clone() for k, v in o.state()[0].items()}
    with pytest.raises(MsdmError) as caught:
        o.step(batches or [toy_batch(o.denoiser, 2)])
    after = o.state()[0]
    assert all(torch.equal(after[k].nan_to_num(7), v.nan_to_num(7)) for k, v in before.items())
    assert all(p.grad is None for p in o.parameters.values())
    assert o.whole
    assert "\n" not in str(caught.value)
    return str(caught.value)


def first(text):
    return text.partition("; first in ")[2].partition("; weights are as before")[0]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("place", [0, 3, -1])
def test_a_weight_that_is_not_finite_is_named(place, checkpointing):
    o = optimiser("spade", unet={"dropout": 0.3})
    o.denoiser.backbone.checkpointing = checkpointing
    names = dict(o.denoiser.backbone.named_modules(prefix="backbone"))
    name = [n for n, m in names.items() if isinstance(m, torch.nn.Conv2d)][place]
    with torch.no_grad():
        names[name].weight[0, 0, 0, 0] = math.nan
    text = said(o)
    assert text.startswith("step 1: loss nan, gradient norm nan, on fields f0, f1; ")
    assert first(text) == f"the output of {name} ({type(names[name]).__name__}), whose weight is not finite"


def test_activations_that_overflow():
    o = optimiser("spade")
    conv = o.denoiser.backbone.input_conv
    with torch.no_grad():
        conv.weight.fill_(3e38)
    assert first(said(o)) == "the output of backbone.input_conv (Conv2d)"


def test_the_second_pass_of_a_step_alone_and_its_field():
    o = optimiser("spade")
    good, bad = toy_batch(o.denoiser, 3), toy_batch(o.denoiser, 2, seed=3)
    bad.image[1] = 3e38  # finite, and what is made of it is not
    good.ids[:] = ["g0", "g1", "g2"]
    assert "on fields f1; first in " in said(o, good, bad)


def test_an_injector_is_named():
    o = optimiser("film")
    injector = next(m for m in o.denoiser.modules() if isinstance(m, msdm_kit.Injector))
    cls = type(injector)
    inject = cls.inject
    try:
        cls.inject = lambda self, *inputs: inject(self, *inputs) / 0
        assert first(said(o)).startswith("the output of injector at site 'embedding' (")
    finally:
        cls.inject = inject
    assert "inject" not in vars(injector)


def test_a_gradient_alone():
    """sqrt(h - h) is zero, and its derivative infinite."""
    o = optimiser("film")
    injector = next(m for m in o.denoiser.modules() if isinstance(m, msdm_kit.Injector))
    cls, inject = type(injector), type(injector).inject

    def steep(self, h, *rest):
        return inject(self, h, *rest) + (h - h).sqrt()

    try:
        cls.inject = steep
        text = said(o)
    finally:
        cls.inject = inject
    assert "gradient norm nan" in text
    assert "loss nan" not in text
    assert first(text).startswith("the gradient of ")


def test_gradients_whose_norm_overflows(monkeypatch):
    loss = Optimiser._loss
    monkeypatch.setattr(Optimiser, "_loss", lambda self, *inputs: loss(self, *inputs) * 1e25)
    text = said(optimiser("film"))
    assert "gradient norm inf" in text
    assert first(text) == "the norm of the gradients, each of which is finite"


def test_what_is_finite_is_left_as_it_is():
    o = optimiser("spade", "film")
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in o.denoiser.modules())
    batch = toy_batch(o.denoiser, 2)
    with watched(o.denoiser) as found:
        for losses in o.losses([batch]):
            losses.sum().backward()
    assert found.first == ""
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in o.denoiser.modules())
    o.optimizer.zero_grad(set_to_none=True)
    twin = optimiser("spade", "film")
    assert o.step([batch]) == twin.step([batch])
    assert same(o.state()[0], twin.state()[0])


def test_what_many_processes_say():
    fine = {"fields": ["a"], "plugin": "", "first": "", "shared": False}
    bad = {"fields": ["b", "c"], "plugin": "", "first": "the loss", "shared": False}
    spoilt = {"fields": ["d"], "plugin": "", "first": "the gradient of w", "shared": True}
    assert "on fields b, c; first in the loss; weights" in message(3, math.nan, 1.0, [fine, bad])
    assert "on fields b, c; first in the loss; weights" in message(3, math.nan, 1.0, [spoilt, bad])
    assert "on fields d; first in the gradient of w; weights" in message(3, math.nan, 1.0, [fine, spoilt])
    said = message(3, 1.0, math.inf, [fine, fine])
    assert "on fields a, a; all was finite when the step was repeated" in said


def test_autocast_is_bf16_or_nothing(monkeypatch):
    before = torch.get_autocast_dtype("cpu")
    for native in (True, False):
        monkeypatch.setattr(precision, "native_bf16", lambda device, native=native: native)
        for asked in ("bf16", "fp32"):
            torch.set_autocast_dtype("cpu", torch.float16)
            try:
                with autocast(CPU, asked):
                    made = torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2))
            finally:
                torch.set_autocast_dtype("cpu", before)
            assert made.dtype == (torch.bfloat16 if native and asked == "bf16" else torch.float32)


def test_fp16_of_a_plugin_is_refused():
    signal = Signal(torch.ones(2, 4, dtype=torch.float16))
    fault = guard.signal_fault(signal, Spec("vector", 4), CPU, 2)
    assert "torch.float16, whose numbers end at 65504" in fault
    o = optimiser("film")
    injector = next(m for m in o.denoiser.modules() if isinstance(m, msdm_kit.Injector))
    vars(injector)["inject"] = lambda h, *rest: h.half()
    with pytest.raises(MsdmError, match=r"makes torch\.float16, whose numbers end at 65504"):
        o.step([toy_batch(o.denoiser, 2)])


def test_no_line_of_ours_asks_for_fp16():
    """Neither by its name, nor by an autocast that leaves the type to PyTorch, which is fp16 on CUDA."""
    root = Path(msdm_kit.__file__).parent
    found, looked = [], 0
    for folder in ("core", "conditioners", "backbones", "plugins", "cli"):
        for path in (root / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            looked += 1
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    name = node.func.attr
                    told = len(node.args) > 1 or {"dtype", "enabled"} & {k.arg for k in node.keywords}
                    if name in ("half", "GradScaler") or (name == "autocast" and not told):
                        found.append(f"{path}:{node.lineno}: {name}")
                if isinstance(node, ast.Attribute) and node.attr == "float16":
                    # they look at numbers that come from elsewhere, and make none
                    others = path.name in ("guard.py", "convert_weights.py")
                    found += [] if others else [f"{path}:{node.lineno}: float16"]
    assert looked > 100
    assert not found, found
