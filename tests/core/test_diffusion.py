import pytest
import torch

from msdm_kit.core.autoencoder import Pixels
from msdm_kit.core.diffusion import (
    denoise,
    eps_from_x0,
    extract,
    log_variance,
    posterior_mean,
    q_sample,
    target,
    x0_from,
)
from msdm_kit.core.schedule import NoiseSchedule

PREDICTIONS = ["eps", "x0", "v"]


def noisy(schedule, count=12, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    x0 = torch.rand(count, 3, 2, 2, generator=g, dtype=dtype) * 2 - 1
    noise = torch.randn(count, 3, 2, 2, generator=g, dtype=dtype)
    index = torch.linspace(0, len(schedule) - 1, count).round().long()
    return x0, noise, index, q_sample(schedule, x0, index, noise)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_true_target_gives_back_the_image(name, prediction):
    schedule = NoiseSchedule.named(name, 100)
    x0, noise, index, x_t = noisy(schedule)
    out = target(schedule, prediction, x0, noise, index)
    torch.testing.assert_close(x0_from(schedule, prediction, out, x_t, index), x0, rtol=1e-6, atol=1e-8)
    d = denoise(schedule, prediction, "fixed_small", out, x_t, index, clip=None)
    torch.testing.assert_close(d.x0, x0, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(d.eps, noise, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(d.mean, posterior_mean(schedule, x0, x_t, index), rtol=1e-6, atol=1e-8)


def test_v_is_the_angle_between_image_and_noise():
    # Salimans and Ho 2022, section 4: with cos p = sqrt(abar), v is the derivative of x_t by the angle p
    schedule = NoiseSchedule.cosine(100)
    x0, noise, index, x_t = noisy(schedule)
    angle = extract(schedule.alphas_cumprod.sqrt().acos(), index, x_t)
    h = 1e-6

    def at(p):
        return p.cos() * x0 + p.sin() * noise

    torch.testing.assert_close(at(angle), x_t)
    torch.testing.assert_close(
        target(schedule, "v", x0, noise, index),
        (at(angle + h) - at(angle - h)) / (2 * h),
        rtol=1e-6,
        atol=1e-8,
    )


def test_clipping():
    schedule = NoiseSchedule.cosine(100)
    x0, _, index, x_t = noisy(schedule)
    d = denoise(schedule, "x0", "fixed_small", 3 * x0, x_t, index, clip=Pixels().clip)
    clipped = (3 * x0).clamp(-1, 1)
    assert torch.equal(d.x0, clipped)
    torch.testing.assert_close(q_sample(schedule, clipped, index, d.eps), x_t)
    torch.testing.assert_close(d.eps, eps_from_x0(schedule, clipped, x_t, index))
    torch.testing.assert_close(d.mean, posterior_mean(schedule, clipped, x_t, index))


@pytest.mark.parametrize("kept", [None, [0, 3, 20, 99]])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_posterior_is_bayes_rule(name, kept):
    """q(x_{t-1} | x_t, x_0) is the product of two Gaussians in x_{t-1}, completed to a square."""
    schedule = NoiseSchedule.named(name, 100)
    if kept is not None:
        schedule = schedule.respace(kept)
    index = torch.arange(1, len(schedule))
    beta, before = (v[1:].view(-1, 1, 1, 1) for v in (schedule.betas, schedule.alphas_cumprod_prev))
    x0, x_t = torch.randn(2, len(index), 3, 1, 1, dtype=torch.float64)
    prior = 1 / (1 - before)
    likelihood = (1 - beta) / beta
    variance = 1 / (prior + likelihood)
    mean = variance * (prior * before.sqrt() * x0 + likelihood * x_t / (1 - beta).sqrt())
    torch.testing.assert_close(posterior_mean(schedule, x0, x_t, index), mean)
    torch.testing.assert_close(schedule.posterior_variance[1:], variance.flatten())


def test_the_first_step_ends_at_the_image():
    schedule = NoiseSchedule.linear(100)
    x0, x_t = torch.randn(2, 1, 3, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(posterior_mean(schedule, x0, x_t, torch.tensor([0])), x0)


def test_variances():
    schedule = NoiseSchedule.linear(100)
    index = torch.arange(100)
    zeros = torch.zeros(100, 3, 1, 1, dtype=torch.float64)
    small = log_variance(schedule, "fixed_small", zeros, index).flatten()
    large = log_variance(schedule, "fixed_large", zeros, index).flatten()
    assert torch.equal(small[1:], schedule.posterior_variance[1:].log())
    assert torch.equal(large[1:], schedule.betas[1:].log())
    assert small[0] == large[0] == small[1]
    assert (small[1:] < large[1:]).all()

    def learned(v):
        return log_variance(schedule, "learned_range", zeros + v, index)[:, 0].flatten()

    torch.testing.assert_close(learned(-1.0), small)
    torch.testing.assert_close(learned(1.0), schedule.betas.log())
    torch.testing.assert_close(learned(0.0), (small + schedule.betas.log()) / 2)


def test_the_variance_is_read_off_the_second_half():
    schedule = NoiseSchedule.cosine(10)
    raw = torch.cat([torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)], dim=1)
    x_t = torch.randn(1, 3, 2, 2)
    d = denoise(schedule, "x0", "learned_range", raw, x_t, torch.tensor([4]), clip=None)
    assert torch.equal(d.x0, torch.zeros(1, 3, 2, 2))
    torch.testing.assert_close(
        d.log_variance, torch.full((1, 3, 2, 2), float(schedule.betas[4].log())), rtol=1e-6, atol=0
    )


def test_noisy_images_have_variance_one():
    schedule = NoiseSchedule.cosine(100)
    g = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 100, 3, 50, 50, generator=g)
    x_t = q_sample(schedule, x0, torch.arange(100), noise)
    assert (x_t.flatten(1).var(1) - 1).abs().max() < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes(dtype):
    schedule = NoiseSchedule.cosine(10)
    x0, noise, index, x_t = noisy(schedule, dtype=dtype)
    d = denoise(schedule, "eps", "fixed_small", noise, x_t, index, clip=Pixels().clip)
    assert {x0.dtype, x_t.dtype, d.x0.dtype, d.eps.dtype, d.mean.dtype, d.log_variance.dtype} == {dtype}
    assert extract(schedule.betas, index, x0.to(torch.bfloat16)).dtype == torch.float32
