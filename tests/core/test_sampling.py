import pytest
import torch

from msdm_kit.core.conditioning import at
from msdm_kit.core.diffusion import denoise
from msdm_kit.core.guidance import combine, plan
from msdm_kit.core.recipe import DiffusionSection, SampleSection
from msdm_kit.core.sampling import GuidedModel, SampleNoise, draw
from msdm_kit.core.solvers import ddim, ddpm

from ..toy import SIDE, observations, toy_denoiser

IDS = ["a", "b", "c"]
CPU = torch.device("cpu")
SOLVERS = {"ddim": ddim, "ddpm": ddpm}


def signals_of(denoiser):
    with torch.no_grad():
        return denoiser.encode(observations(denoiser, 3))


def paint(denoiser, signals, ids=IDS, seed=0, solver="ddim", **settings):
    return draw(
        denoiser,
        signals,
        ids=ids,
        size=(SIDE, SIDE),
        settings=SampleSection(**{"steps": 4, **settings}),
        solver=SOLVERS[solver],
        seed=seed,
    )


def test_noise_is_the_samples_own():
    shape = (3, 4, 4)
    noise = SampleNoise(0, IDS, shape, CPU)
    first, second = noise(), noise()
    assert not torch.equal(first, second)
    assert len({tuple(row.flatten().tolist()) for row in (*first, *second)}) == 6
    for i in range(3):
        alone = SampleNoise(0, [IDS[i]], shape, CPU)
        assert torch.equal(alone()[0], first[i])
        assert torch.equal(alone()[0], second[i])
    backwards = SampleNoise(0, IDS[::-1], shape, CPU)
    assert torch.equal(backwards().flip(0), first)
    assert not torch.equal(SampleNoise(1, IDS, shape, CPU)(), first)


@pytest.mark.parametrize(("solver", "eta"), [("ddim", 0.0), ("ddim", 0.7), ("ddpm", 0.0)])
def test_the_same_seed_gives_the_same_images(solver, eta):
    denoiser = toy_denoiser("spade", "cross")
    signals = signals_of(denoiser)
    a = paint(denoiser, signals, solver=solver, eta=eta)
    torch.rand(3)
    assert torch.equal(paint(denoiser, signals, solver=solver, eta=eta), a)
    assert not torch.equal(paint(denoiser, signals, seed=1, solver=solver, eta=eta), a)
    assert (a.shape, a.dtype) == ((3, 3, SIDE, SIDE), torch.float32)
    assert float(a.abs().max()) <= 1


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1)])
def test_the_batch_does_not_matter(sizes, solver, guidance):
    """Up to rounding: how a matrix product is blocked, and so how it adds, depends on the batch.

    The noise is equal bit for bit, the images are not. With eps and the cosine schedule the first step of
    ``trailing`` would multiply the rounding by 1 / sqrt(abar) = 2e4, to 1e-3 here.
    """
    denoiser = toy_denoiser("spade", "cross", diffusion=DiffusionSection(prediction="v"))
    signals = signals_of(denoiser)
    together = paint(denoiser, signals, solver=solver, guidance=guidance)
    parts, start = [], 0
    for n in sizes:
        rows = slice(start, start + n)
        part = {k: at(s, rows) for k, s in signals.items()}
        parts.append(paint(denoiser, part, IDS[rows], solver=solver, guidance=guidance))
        start += n
    torch.testing.assert_close(torch.cat(parts), together, rtol=0, atol=2e-5)


def test_guidance_1_is_the_plain_network():
    denoiser = toy_denoiser("spade", "film")
    signals, settings = signals_of(denoiser), SampleSection(steps=5, clip=False)
    model = GuidedModel(denoiser, signals, settings)
    x = torch.randn(3, 3, SIDE, SIDE)
    with torch.no_grad():
        out = model(x, 2)
        t = model.schedule.timesteps[2].expand(3)
        raw = denoiser(x, t, signals)
        d = denoiser.diffusion
        plain = denoise(model.schedule, d.prediction, d.variance, raw, x, torch.full((3,), 2), clip=False)
    assert model.schedule.timesteps.tolist() == [199, 399, 599, 799, 999]
    assert torch.equal(out.x0, plain.x0)
    assert torch.equal(paint(denoiser, signals, guidance={"film": 1.0}), paint(denoiser, signals))


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
@pytest.mark.parametrize("names", [("spade", "cross"), ("spade", "film", "cross")])
@pytest.mark.parametrize("guidance", [2.5, {"spade": 3.0}, {"cross": 0.5, "spade": 2.0}])
def test_guidance_is_the_sum_over_whole_networks(guidance, names, variance):
    """Sharing the encoder and preparing at one row change nothing."""
    denoiser = toy_denoiser(*names, diffusion=DiffusionSection(variance=variance))
    signals = signals_of(denoiser)
    model = GuidedModel(denoiser, signals, SampleSection(steps=5, guidance=guidance, clip=False))
    x, index = torch.randn(3, 3, SIDE, SIDE), torch.full((3,), 2)
    branches = plan(guidance, names)
    with torch.no_grad():
        outputs = []
        for b in branches:
            absent = {n: torch.ones(3, dtype=torch.bool) for n in names if n not in b.present}
            t = model.schedule.timesteps[index]
            outputs.append(denoiser(x, t, denoiser.drop(signals, absent)))
        raw = combine(branches, outputs, variance)
        expected = denoise(model.schedule, "eps", variance, raw, x, index, clip=False)
        out = model(x, 2)
    torch.testing.assert_close(out.x0, expected.x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.log_variance, expected.log_variance, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("names", "guidance", "encoders", "decoders"),
    [
        (("spade", "cross"), 1.0, 1, 1),
        (("spade", "cross"), 2.0, 1, 2),
        (("spade", "cross"), {"spade": 2.0, "cross": 3.0}, 1, 3),
        (("spade", "film"), 2.0, 2, 2),
        ((), 2.0, 1, 1),
    ],
)
def test_nothing_is_computed_twice(names, guidance, encoders, decoders, monkeypatch):
    denoiser = toy_denoiser(*names)
    signals, calls = signals_of(denoiser), {"encode": 0, "decode": 0, "prepare": 0, "step": 0}

    def count(owner, name):
        function = getattr(owner, name)

        def counted(*args):
            calls[name] += 1
            return function(*args)

        monkeypatch.setattr(owner, name, counted)

    count(denoiser.backbone, "encode")
    count(denoiser.backbone, "decode")
    count(denoiser, "prepare")

    def step():
        calls["step"] += 1

    draw(
        denoiser,
        signals,
        ids=IDS,
        size=(SIDE, SIDE),
        settings=SampleSection(steps=3, guidance=guidance),
        solver=ddim,
        seed=0,
        on_step=step,
    )
    assert calls == {"encode": 3 * encoders, "decode": 3 * decoders, "prepare": decoders, "step": 3}


def test_clipping_holds_at_every_step():
    denoiser = toy_denoiser("spade")
    signals = signals_of(denoiser)
    x = 30 * torch.randn(3, 3, SIDE, SIDE)
    with torch.no_grad():
        free = GuidedModel(denoiser, signals, SampleSection(steps=2, clip=False))(x, 1)
        held = GuidedModel(denoiser, signals, SampleSection(steps=2))(x, 1)
    assert float(free.x0.abs().max()) > 1
    torch.testing.assert_close(held.x0, free.x0.clamp(-1, 1))


def test_bf16_is_near_fp32():
    denoiser = toy_denoiser("spade", "cross")
    signals = signals_of(denoiser)
    a, b = paint(denoiser, signals), paint(denoiser, signals, precision="bf16")
    assert b.dtype == torch.float32
    assert float((a - b).abs().mean()) < 0.05


def test_any_multiple_is_a_size():
    denoiser = toy_denoiser("spade")
    with torch.no_grad():
        data = torch.randn(1, 4, 6, 10)
        signals = denoiser.encode({"spade": {"data": data}})
    out = draw(
        denoiser, signals, ids=["a"], size=(6, 10), settings=SampleSection(steps=2), solver=ddpm, seed=0
    )
    assert out.shape == (1, 3, 6, 10)
