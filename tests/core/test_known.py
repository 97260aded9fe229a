"""Painting from a real image and keeping pixels of one: known answers, with every solver."""

import pytest
import torch

from msdm_kit.core.conditioning import at
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.known import Known
from msdm_kit.core.multistep import dpmpp_2m, unipc
from msdm_kit.core.recipe import DiffusionSection, SampleSection
from msdm_kit.core.sampling import SampleNoise, Sampler
from msdm_kit.core.solvers import ddim, ddpm, heun

from ..toy import SIDE, observations, toy_denoiser

SOLVERS = {"ddim": ddim, "ddpm": ddpm, "heun": heun, "dpmpp_2m": dpmpp_2m, "unipc": unipc}
IDS = ["a", "b", "c"]


@pytest.fixture(scope="module", params=["fixed_small", "learned_range"])
def denoiser(request):
    return toy_denoiser("spade", diffusion=DiffusionSection(variance=request.param, timesteps=100))


@pytest.fixture(scope="module")
def image():
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.fixture(scope="module")
def keep():
    region = torch.zeros(3, 1, SIDE, SIDE, dtype=torch.bool)
    region[..., : SIDE // 2] = True
    region[1] = ~region[1]
    return region


def sampler(denoiser, solver, **settings):
    return Sampler(denoiser, SampleSection(**{"steps": 4, **settings}), SOLVERS[solver])


def draw(denoiser, solver, known=None, rows=slice(3), **settings):
    with torch.no_grad():
        signals = denoiser.encode(observations(denoiser, 3))
    return sampler(denoiser, solver, **settings).draw(
        {name: at(signal, rows) for name, signal in signals.items()},
        ids=IDS[rows],
        size=(SIDE, SIDE),
        seed=0,
        known=known,
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_strength_0_is_the_image_and_1_is_a_start_from_noise(denoiser, image, solver):
    known = Known(image)
    assert torch.equal(draw(denoiser, solver, known, start="image", strength=0), image)
    noise = draw(denoiser, solver)
    assert torch.equal(draw(denoiser, solver, known, start="image", strength=1), noise)
    assert not torch.equal(draw(denoiser, solver, known, start="image", strength=0.9), noise)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_walk_begins_at_its_own_noise_level(denoiser, image, solver, monkeypatch):
    """0.3 of 100 time steps: all are below 30, and what the network sees first is the image at that level."""
    painter = sampler(denoiser, solver, start="image", strength=0.3)
    assert int(painter.schedule.timesteps.max()) < 30
    torch.testing.assert_close(
        painter.schedule.alphas_cumprod, denoiser.schedule.alphas_cumprod[painter.schedule.timesteps]
    )
    seen = []
    evaluate = Sampler.evaluate
    monkeypatch.setattr(
        Sampler, "evaluate", lambda s, states, x, t: (seen.append((x, t)), evaluate(s, states, x, t))[1]
    )
    out = draw(denoiser, solver, Known(image), start="image", strength=0.3)
    x, t = seen[0]
    abar = denoiser.schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
    noise = SampleNoise(0, IDS, (3, SIDE, SIDE), torch.device("cpu"))()
    torch.testing.assert_close(x, (abar.sqrt() * image + (1 - abar).sqrt() * noise).float())
    assert not torch.equal(out, image)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("start", ["noise", "image"])
def test_known_pixels_stay_exactly_and_the_others_do_not(denoiser, image, keep, solver, start):
    out = draw(denoiser, solver, Known(image, keep), start=start, keep="unchanged", strength=0.8)
    stay = keep.expand_as(image)
    assert torch.equal(out[stay], image[stay])
    assert (out[~stay] != image[~stay]).float().mean() > 0.9
    assert float(out.abs().max()) <= 1


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m", "unipc"])
def test_the_network_sees_known_pixels_with_the_noise_of_each_step(
    denoiser, image, keep, solver, monkeypatch
):
    """A deterministic walk carries the noise that it began with along, scaled to each level."""
    seen = []
    evaluate = Sampler.evaluate
    monkeypatch.setattr(
        Sampler, "evaluate", lambda s, states, x, t: (seen.append((x, t)), evaluate(s, states, x, t))[1]
    )
    draw(denoiser, solver, Known(image, keep), keep="unchanged")
    noise = SampleNoise(0, IDS, (3, SIDE, SIDE), torch.device("cpu"))()
    stay = keep.expand_as(image)
    assert len(seen) >= 4
    for x, t in seen:
        abar = denoiser.schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        wanted = (abar.sqrt() * image + (1 - abar).sqrt() * noise).float()
        torch.testing.assert_close(x[stay], wanted[stay], rtol=1e-4, atol=1e-4)


def test_ancestral_known_pixels_have_the_noise_level_of_their_step():
    """q(x_t | x_0) of the known x_0, in mean and deviation, over many pixels."""
    denoiser = toy_denoiser(diffusion=DiffusionSection(timesteps=100))
    image = torch.full((1, 3, 64, 64), 0.5)
    seen = []
    painter = Sampler(denoiser, SampleSection(steps=10), ddpm)
    known = Known(image, torch.ones(1, 1, 64, 64, dtype=torch.bool))
    model = known.hold(painter.model({}), painter.schedule)
    draw_noise = SampleNoise(0, ["a"], (3, 64, 64), torch.device("cpu"))

    def spy(x, i):
        seen.append((x, i))
        return model(x, i)

    with torch.inference_mode():
        ddpm(
            spy,
            known.begin(draw_noise(), painter.schedule, painter.settings),
            painter.schedule,
            noise=draw_noise,
        )
    for x, i in seen:
        abar = float(painter.schedule.alphas_cumprod[i])
        assert float(x.mean()) == pytest.approx(0.5 * abar**0.5, abs=0.03)
        assert float(x.std()) == pytest.approx((1 - abar) ** 0.5, abs=0.03)


def test_a_batch_changes_nothing(denoiser, image, keep):
    settings = {"start": "image", "strength": 0.6, "keep": "unchanged"}
    together = draw(denoiser, "ddpm", Known(image, keep), **settings)
    for i in range(3):
        row = slice(i, i + 1)
        alone = draw(denoiser, "ddpm", Known(image[row], keep[row]), row, **settings)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-4)


def test_steps_are_those_of_the_part_that_is_walked(denoiser):
    assert sampler(denoiser, "ddpm", start="image", strength=0.2, steps=None).settings.steps == 20
    assert sampler(denoiser, "unipc", start="image", strength=0.05, steps=None).settings.steps == 5
    with pytest.raises(MsdmError, match=r"schedule of 100, of which strength 0\.03 walks 3; legal: 1 to 3"):
        sampler(denoiser, "ddim", start="image", strength=0.03)


def test_what_is_missing_is_said(denoiser, image):
    for settings in ({"start": "image"}, {"keep": "inside:nucleus"}):
        with pytest.raises(MsdmError, match="none is given; give it, or set start: noise"):
            draw(denoiser, "ddim", **settings)
    with pytest.raises(MsdmError, match="the known image is 8 x 16, and 16 x 16 are painted"):
        draw(denoiser, "ddim", Known(image[..., :8, :]), start="image")
