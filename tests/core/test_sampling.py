import pytest
import torch

from msdm_kit.core.conditioning import at
from msdm_kit.core.denoiser import nbytes
from msdm_kit.core.diffusion import denoise
from msdm_kit.core.guidance import combine, plan
from msdm_kit.core.precision import native_bf16
from msdm_kit.core.recipe import DiffusionSection, SampleSection
from msdm_kit.core.sampling import SampleNoise, Sampler
from msdm_kit.core.solvers import ddim, ddpm

from ..toy import SIDE, observations, same, toy_denoiser

IDS = ["a", "b", "c"]
CPU = torch.device("cpu")
SOLVERS = {"ddim": ddim, "ddpm": ddpm}


def signals_of(denoiser):
    with torch.no_grad():
        return denoiser.encode(observations(denoiser, 3))


def paint(denoiser, signals, ids=IDS, seed=0, solver="ddim", **settings):
    return sampler_of(denoiser, solver, **settings).draw(signals, ids=ids, size=(SIDE, SIDE), seed=seed)


def sampler_of(denoiser, solver="ddim", budget=None, **settings):
    settings = SampleSection(**{"steps": 4, "spacing": "trailing", **settings})
    return Sampler(denoiser, settings, SOLVERS[solver], budget=budget)


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
    signals = signals_of(denoiser)
    sampler = sampler_of(denoiser, steps=5, clip=False)
    x = torch.randn(3, 3, SIDE, SIDE)
    with torch.no_grad():
        out = sampler.model(signals)(x, 2)
        t = sampler.schedule.timesteps[2].expand(3)
        raw = denoiser(x, t, signals)
        d = denoiser.diffusion
        plain = denoise(sampler.schedule, d.prediction, d.variance, raw, x, torch.full((3,), 2), clip=None)
    assert sampler.schedule.timesteps.tolist() == [199, 399, 599, 799, 999]
    # by convolutions that round in another order
    torch.testing.assert_close(out.x0, plain.x0, rtol=0, atol=1e-5 * float(plain.x0.abs().max()))
    assert torch.equal(paint(denoiser, signals, guidance={"film": 1.0}), paint(denoiser, signals))


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
@pytest.mark.parametrize("names", [("spade", "cross"), ("spade", "film", "cross")])
@pytest.mark.parametrize("guidance", [2.5, {"spade": 3.0}, {"cross": 0.5, "spade": 2.0}])
def test_guidance_is_the_sum_over_whole_networks(guidance, names, variance):
    """Sharing the encoder and preparing at one row change nothing."""
    denoiser = toy_denoiser(*names, diffusion=DiffusionSection(variance=variance))
    signals = signals_of(denoiser)
    sampler = sampler_of(denoiser, steps=5, guidance=guidance, clip=False)
    x, index = torch.randn(3, 3, SIDE, SIDE), torch.full((3,), 2)
    branches = plan(guidance, names)
    with torch.no_grad():
        outputs = []
        for b in branches:
            absent = {n: torch.ones(3, dtype=torch.bool) for n in names if n not in b.present}
            t = sampler.schedule.timesteps[index]
            outputs.append(denoiser(x, t, denoiser.drop(signals, absent)))
        raw = combine(branches, outputs, variance)
        expected = denoise(sampler.schedule, "eps", variance, raw, x, index, clip=None)
        out = sampler.model(signals)(x, 2)
    torch.testing.assert_close(out.x0, expected.x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.log_variance, expected.log_variance, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("names", "guidance", "encoders", "decoders"),
    [
        (("spade", "cross"), 1.0, 1, 1),
        (("spade", "cross"), 2.0, 1, 2),
        (("spade", "cross"), {"spade": 2.0, "cross": 3.0}, 1, 3),
        (("spade", "film"), 2.0, 2, 2),
        (("film", "spade"), {"film": 1.0, "spade": 2.0}, 1, 2),
        ((), 1.0, 1, 1),
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

    sampler = sampler_of(denoiser, steps=3, guidance=guidance)
    sampler.draw(signals, ids=IDS, size=(SIDE, SIDE), seed=0, on_step=step)
    assert calls == {"encode": 3 * encoders, "decode": 3 * decoders, "prepare": decoders, "step": 3}
    # of the second batch only what is present is prepared: the absent condition is that of the first
    sampler.draw(signals, ids=IDS, size=(SIDE, SIDE), seed=1)
    absent = decoders > 1 and guidance != {"film": 1.0, "spade": 2.0}
    assert calls["prepare"] == (2 * decoders - absent if names else 1)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_budget_changes_no_bit(precision, guidance):
    denoiser = toy_denoiser("spade", "cross")
    signals, changes = signals_of(denoiser), {"precision": precision, "guidance": guidance}
    whole = sampler_of(denoiser, **changes)
    everything = sum(nbytes(states) for states in whole.prepare(signals, None))
    images = whole.draw(signals, ids=IDS, size=(SIDE, SIDE), seed=0)
    held = []
    for budget in (0, 1000, everything // 2, everything):
        sampler = sampler_of(denoiser, budget=budget, **changes)
        held.append(sum(nbytes(states) for states in sampler.prepare(signals, budget)))
        assert held[-1] <= budget
        assert torch.equal(sampler.draw(signals, ids=IDS, size=(SIDE, SIDE), seed=0), images)
    assert 0 == held[0] <= held[1] < held[2] < held[3] == everything


def test_the_absent_condition_of_one_size_serves_all_batches():
    denoiser = toy_denoiser("spade", "cross")
    signals = signals_of(denoiser)
    sampler = sampler_of(denoiser, guidance=2.0)
    first, second = (
        sampler.prepare(signals, None),
        sampler.prepare({k: at(s, slice(1)) for k, s in signals.items()}, None),
    )
    assert first[0] is second[0]
    assert first[1] is not second[1]
    with torch.no_grad():
        wide = denoiser.encode({**observations(denoiser, 1), "spade": {"data": torch.randn(1, 4, 8, 24)}})
    assert sampler.prepare(wide, None)[0] is not first[0]
    # a constant map is prepared as a patch, whatever the size of the field
    assert nbytes(first[0]) * 3 < nbytes(second[1])


def test_weights_are_cast_once_and_only_where_it_pays():
    denoiser = toy_denoiser("spade", "cross")
    before = {n: t.clone() for n, t in denoiser.state_dict().items()}
    network = sampler_of(denoiser, precision="bf16").network
    assert sampler_of(denoiser).network is denoiser
    if not native_bf16(CPU):
        assert network is denoiser
        return
    dtypes = {n: p.dtype for n, p in network.named_parameters()}
    cast = {n for n, dtype in dtypes.items() if dtype == torch.bfloat16}
    assert "backbone.input_conv.weight" in cast
    assert any(".gamma_beta." in n for n in cast)
    assert any(".qkv." in n for n in cast)
    own = dict(denoiser.named_parameters())
    for name, p in network.named_parameters():
        if name in cast:
            torch.testing.assert_close(p, own[name].bfloat16())
        else:
            assert p is own[name]
    parents = {n.split(".")[-2] for n in cast}
    assert not parents & {"norm", "in_norm", "out_norm", "head_norm", "emb", "q", "out"}
    assert not any(n.startswith(("backbone.time_embed", "conditioners")) for n in cast)
    assert same(denoiser.state_dict(), before)


def test_a_step_reads_nothing_back_from_the_device_of_the_images():
    """Such a read makes every step wait for the one before; from a meta tensor it is an error."""
    denoiser = toy_denoiser("spade", diffusion=DiffusionSection(variance="learned_range"))
    signals, told = signals_of(denoiser), []
    sampler = sampler_of(denoiser, steps=5)

    def evaluate(states, x, t):
        told.append(t)
        return torch.cat([x, x], dim=1)

    sampler.evaluate = evaluate
    out = sampler.model(signals)(torch.empty(3, 3, SIDE, SIDE, device="meta"), 2)
    assert {out.x0.device.type, out.log_variance.device.type, told[0].device.type} == {"meta"}
    sampler.model(signals)(torch.zeros(3, 3, SIDE, SIDE), 2)
    assert told[1].tolist() == [599, 599, 599]
    assert told[1].dtype == torch.int64


def test_the_sites_are_walked_once_per_sampler(monkeypatch):
    denoiser = toy_denoiser("spade", "film")
    signals = signals_of(denoiser)
    sampler = sampler_of(denoiser, guidance=2.0)
    expected = sampler.draw(signals, ids=IDS, size=(SIDE, SIDE), seed=0)
    monkeypatch.setattr(
        type(denoiser), "encoder_conditions", property(lambda self: pytest.fail("walked again"))
    )
    assert torch.equal(sampler.draw(signals, ids=IDS, size=(SIDE, SIDE), seed=0), expected)


def test_clipping_holds_at_every_step():
    denoiser = toy_denoiser("spade")
    signals = signals_of(denoiser)
    x = 30 * torch.randn(3, 3, SIDE, SIDE)
    with torch.no_grad():
        free = sampler_of(denoiser, steps=2, clip=False).model(signals)(x, 1)
        held = sampler_of(denoiser, steps=2).model(signals)(x, 1)
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
    out = sampler_of(denoiser, "ddpm", steps=2).draw(signals, ids=["a"], size=(6, 10), seed=0)
    assert out.shape == (1, 3, 6, 10)
