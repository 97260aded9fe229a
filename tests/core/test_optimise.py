import math

import pytest
import torch

from msdm_kit.core.denoiser import Denoiser
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.optimise import Optimiser, learning_rate
from msdm_kit.core.recipe import DiffusionSection, EmaSection, TrainSection
from msdm_kit.plugins.profile_parts import tracer

from ..toy import same, take, toy_batch, toy_denoiser

NAMES = ("spade", "cross")


def section(**changes) -> TrainSection:
    return TrainSection(**{"steps": 10, "precision": "fp32", "lr": 1e-2, **changes})


def optimiser(denoiser: Denoiser | None = None, drop=None, **changes) -> Optimiser:
    denoiser = denoiser or toy_denoiser(*NAMES)
    return Optimiser(denoiser, section(**changes), total=10, drop=drop or {})


def weights(o: Optimiser):
    return {k: v.clone() for k, v in o.denoiser.state_dict().items()}


def moved(o: Optimiser, before) -> bool:
    return not same(weights(o), before)


def test_four_micro_batches_are_one_batch():
    """The gradient of a mean over 8 images, in one piece and in four, with the same noise."""
    o = optimiser()
    batch = toy_batch(o.denoiser, 8)
    g = torch.Generator().manual_seed(3)
    index, noise = torch.randint(1000, (8,), generator=g), torch.randn(8, 3, 16, 16, generator=g)
    absent = {"spade": torch.rand(8, generator=g) < 0.5}
    gradients = []
    for size in (8, 2):
        o.denoiser.zero_grad(set_to_none=True)
        for i in range(0, 8, size):
            rows = slice(i, i + size)
            part = {n: a[rows] for n, a in absent.items()}
            (o.loss_at(take(batch, rows), index[rows], noise[rows], part).sum() / 8).backward()
        gradients.append({n: p.grad.clone() for n, p in o.parameters.items() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, whole in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], whole, rtol=1e-4, atol=1e-5)


def test_the_report_and_the_images_of_an_uneven_step():
    o = optimiser()
    batch = toy_batch(o.denoiser, 3)
    report = o.step([take(batch, slice(0, 2)), take(batch, slice(2, 3))])
    assert (report.step, report.images, report.lr) == (1, 3, 1e-2)
    assert math.isfinite(report.loss)
    assert report.gradient_norm > 0
    assert all(p.grad is None for p in o.parameters.values())
    assert o.ema.updates == 1


@pytest.mark.parametrize("clip", [1e-3, 1e6, None])
def test_clipping(clip):
    """With plain gradient descent hidden in Adam's first moment: exp_avg = (1 - beta1) gradient."""
    o = optimiser(clip=clip)
    report = o.step([toy_batch(o.denoiser, 2)])
    first = [
        o.optimizer.state[p]["exp_avg"] / (1 - 0.9) for p in o.parameters.values() if p in o.optimizer.state
    ]
    norm = torch.stack([t.square().sum() for t in first]).sum().sqrt()
    expected = report.gradient_norm if clip is None else min(clip, report.gradient_norm)
    assert float(norm) == pytest.approx(expected, rel=1e-3)


def test_learning_rates():
    s = section(lr=1.0, warmup=4)
    assert [learning_rate(s, i, 10) for i in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    s = section(lr=1.0, warmup=2, decay="cosine")
    rates = [learning_rate(s, i, 10) for i in range(11)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rates[6] == pytest.approx(0.5)
    assert rates[10] == pytest.approx(0, abs=1e-12)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert learning_rate(section(lr=3e-4), 0, 1) == 3e-4
    assert learning_rate(section(lr=1.0, warmup=20, decay="cosine"), 5, 10) == pytest.approx(6 / 21)


def test_the_learning_rate_is_used():
    a, b = optimiser(), optimiser(warmup=1)
    start = weights(a)
    for o in (a, b):
        assert o.step([toy_batch(o.denoiser, 2)]).lr == (1e-2 if o is a else 5e-3)
    name = "backbone.head_conv.weight"
    moves = [(weights(o)[name] - start[name]).abs().max() for o in (a, b)]
    assert float(moves[0]) == pytest.approx(1e-2, rel=1e-2)
    assert float(moves[1]) == pytest.approx(5e-3, rel=1e-2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(value):
    o = optimiser()
    o.step([toy_batch(o.denoiser, 2)])
    tensors, facts = o.state()
    before = {k: v.clone() for k, v in tensors.items()}
    bad = toy_batch(o.denoiser, 2)
    bad.image[1, 0, 0, 0] = value
    with pytest.raises(MsdmError, match=r"step 2: loss .* on fields f0, f1; first in the images; ") as caught:
        o.step([bad])
    assert "\n" not in str(caught.value)
    assert same(o.state()[0], before)
    assert o.state()[1] == facts
    assert all(p.grad is None for p in o.parameters.values())
    twin = optimiser()
    twin.step([toy_batch(twin.denoiser, 2)])
    good = toy_batch(o.denoiser, 2, seed=5)
    o.step([good])
    twin.step([good])
    assert same(weights(o), weights(twin))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_a_loaded_state_goes_on_bit_for_bit(kind, precision, layout):
    settings = {
        "optimizer": kind,
        "weight_decay": 0.1,
        "warmup": 3,
        "decay": "cosine",
        "precision": precision,
        "ema": EmaSection(decay=0.9),
    }
    drop, unet = {"spade": 0.5, "cross": 0.5}, {"dropout": 0.2}
    a = optimiser(toy_denoiser(*NAMES, unet=unet).to(memory_format=layout), drop, **settings)
    batches = [[toy_batch(a.denoiser, 3, seed=s), toy_batch(a.denoiser, 2, seed=s + 9)] for s in range(6)]
    for step in batches[:3]:
        a.step(step)
    tensors, facts = a.state()
    # a file keeps no memory format
    saved = {k: v.clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    b = optimiser(toy_denoiser(*NAMES, unet=unet).to(memory_format=layout), drop, **settings)
    b.load(saved, facts)
    assert same(b.state()[0], saved)
    for step in batches[3:]:
        torch.rand(7)  # whatever the caller draws in between
        assert a.step(step) == b.step(step)
    assert same(a.state()[0], b.state()[0])
    assert a.state()[1] == b.state()[1] == {"step": 6, "ema_updates": 6}


def test_a_fresh_state_can_be_loaded():
    a, b = optimiser(), optimiser()
    b.load(*a.state())
    batch = toy_batch(a.denoiser, 2)
    a.step([batch])
    b.step([batch])
    assert same(a.state()[0], b.state()[0])


def test_another_models_state():
    o = optimiser()
    for other in (toy_denoiser("spade"), toy_denoiser(*NAMES, unet={"multipliers": (1, 3)})):
        before = weights(o)
        with pytest.raises(MsdmError, match="another model"):
            o.load(*optimiser(other).state())
        assert same(weights(o), before)


def test_frozen_weights_stay():
    denoiser = toy_denoiser("film")
    denoiser.conditioner("film").requires_grad_(False)
    o = optimiser(denoiser, {"film": 0.5})
    before = weights(o)
    for s in range(2):
        o.step([toy_batch(denoiser, 2, seed=s)])
    assert all(torch.equal(v, before[k]) for k, v in weights(o).items() if k.startswith("conditioners"))
    assert moved(o, before)
    assert not any("conditioners" in n for n in o.ema.shadow)


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (1.0, 1.0), (0.3, 0.3)])
def test_drop_probability(probability, share):
    o = optimiser(drop={"spade": probability, "cross": 0.0})
    batch = toy_batch(o.denoiser, 200)
    seen = [o._draw(batch, place) for place in range(0, 2000, 200)]
    index, noise, absent = zip(*seen, strict=True)
    dropped = torch.cat([a["spade"] for a in absent]).float().mean()
    assert float(dropped) == pytest.approx(share, abs=0.04)
    assert not any(a["cross"].any() for a in absent)
    assert float(torch.cat(index).float().mean()) == pytest.approx(499.5, rel=0.05)
    assert float(torch.cat(noise).std()) == pytest.approx(1, abs=0.01)
    assert (torch.cat(index).min(), torch.cat(index).max()) >= (0, 0)
    assert len({i.tolist()[0] for i in index}) > 5


def test_what_is_drawn_for_an_image_does_not_depend_on_the_split_of_its_step():
    o = optimiser(drop={"spade": 0.5})
    whole = toy_batch(o.denoiser, 6)
    o.done = 3
    index, noise, absent = o._draw(whole, 0)
    for rows in (slice(0, 1), slice(1, 3), slice(3, 6)):
        part = o._draw(take(whole, rows), rows.start)
        assert torch.equal(part[0], index[rows])
        assert torch.equal(part[1], noise[rows])
        assert torch.equal(part[2]["spade"], absent["spade"][rows])
    o.done = 4
    assert not torch.equal(o._draw(whole, 0)[1], noise)
    assert not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize(
    "diffusion",
    [
        DiffusionSection(prediction="v"),
        DiffusionSection(prediction="x0", weighting="min_snr"),
        DiffusionSection(variance="learned_range", schedule="linear"),
    ],
)
def test_training_lowers_the_loss(diffusion):
    o = optimiser(toy_denoiser("spade", diffusion=diffusion), lr=3e-3)
    batch = toy_batch(o.denoiser, 4)
    g = torch.Generator().manual_seed(0)
    index, noise = torch.tensor([50, 300, 600, 900]), torch.randn(4, 3, 16, 16, generator=g)

    def loss():
        with torch.no_grad():
            return float(o.loss_at(batch, index, noise, {}).mean())

    before = loss()
    for _ in range(15):
        o.step([batch])
    assert loss() < 0.8 * before


@pytest.mark.parametrize(
    "diffusion",
    [
        DiffusionSection(weighting="min_snr", prediction="v"),
        DiffusionSection(variance="learned_range", schedule="linear"),
    ],
)
def test_a_step_asks_for_no_number_but_at_its_end(diffusion):
    """Each would be a wait for the GPU; the loss and the norm are read back as one tensor."""
    o = optimiser(toy_denoiser(*NAMES, diffusion=diffusion), {"spade": 0.5}, clip=1e-3)
    batch = toy_batch(o.denoiser, 2)
    with tracer(torch.device("cpu")) as trace:
        o.step([batch, batch])
    asked = [e for e in trace.events() if e.name in ("aten::item", "aten::is_nonzero")]
    # on the CPU, fused Adam reads its own step counters
    assert {e.cpu_parent.name for e in asked} == {"aten::_fused_adam_"}
