"""Solvers on data of which the denoiser is known: x_0 ~ N(m, s^2), pixel by pixel.

x_t ~ N(sqrt(abar) m, abar s^2 + 1 - abar), and E[x_0 | x_t] is a line in x_t.
"""

import itertools

import pytest
import torch

from msdm_kit.core.diffusion import denoise
from msdm_kit.core.schedule import NoiseSchedule, spaced_steps
from msdm_kit.core.solvers import ddim, ddpm

M, S = 0.3, 0.4


def marginal(schedule, i):
    """Mean and standard deviation of x_t."""
    a = float(schedule.alphas_cumprod[i])
    return a**0.5 * M, (a * S**2 + 1 - a) ** 0.5


def gaussian_model(schedule, variance="fixed_small"):
    def model(x, i):
        mean, std = marginal(schedule, i)
        x0 = M + float(schedule.alphas_cumprod[i].sqrt()) * S**2 / std**2 * (x - mean)
        return denoise(schedule, "x0", variance, x0, x, torch.full((len(x),), i), clip=False)

    return model


def walked(steps, name="cosine", spacing="trailing"):
    full = NoiseSchedule.named(name)
    return full.respace(spaced_steps(len(full), steps, spacing))


def standard_normal(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(count, 1, 1, 1, generator=g, dtype=torch.float64)


def never():
    raise AssertionError("a deterministic solver draws no noise")


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ddim_follows_the_ode(name):
    """The flow keeps (x_t - mean_t) / std_t: DDIM reaches its end with an error of O(1 / N)."""
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).view(-1, 1, 1, 1)
    errors = []
    for steps in (50, 100, 200, 400):
        schedule = walked(steps, name)
        mean, std = marginal(schedule, steps - 1)
        exact = M + S * (x - mean) / std
        errors.append(float((ddim(gaussian_model(schedule), x, schedule, noise=never) - exact).abs().max()))
    assert errors[0] < 0.06
    assert all(0.35 < b / a < 0.65 for a, b in itertools.pairwise(errors))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_draws_from_the_data(variance):
    schedule, noise = walked(1000), standard_normal(20000)
    out = ddpm(gaussian_model(schedule, variance), noise(), schedule, noise=noise)
    assert float(out.mean()) == pytest.approx(M, abs=0.01)
    assert float(out.std()) == pytest.approx(S, rel=0.02)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_draws_from_the_data_at_every_eta(eta):
    schedule, noise = walked(500), standard_normal(20000)
    out = ddim(gaussian_model(schedule), noise(), schedule, noise=noise, eta=eta)
    assert float(out.mean()) == pytest.approx(M, abs=0.01)
    assert float(out.std()) == pytest.approx(S, rel=0.02)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_ddim_at_eta_1_is_ddpm(spacing):
    schedule = walked(30, "linear", spacing)
    a, b = standard_normal(7), standard_normal(7)
    model = gaussian_model(schedule)
    torch.testing.assert_close(
        ddim(model, a(), schedule, noise=a, eta=1.0), ddpm(model, b(), schedule, noise=b)
    )


@pytest.mark.parametrize(("solver", "eta", "draws"), [(ddim, 0.0, 0), (ddim, 0.3, 9), (ddpm, 0.0, 9)])
def test_noise_is_drawn_at_every_step_but_the_last(solver, eta, draws):
    schedule, count, seen = walked(10), 0, []
    model = gaussian_model(schedule)

    def noise():
        nonlocal count
        count += 1
        return torch.zeros(2, 1, 1, 1)

    def watched(x, i):
        seen.append(i)
        return model(x, i)

    solver(watched, torch.ones(2, 1, 1, 1), schedule, noise=noise, eta=eta)
    assert count == draws
    assert seen == list(range(9, -1, -1))


@pytest.mark.parametrize("solver", [ddim, ddpm])
def test_a_known_image_is_reached(solver):
    schedule, noise = walked(5), standard_normal(3)
    x0 = torch.linspace(-1, 1, 3, dtype=torch.float64).view(-1, 1, 1, 1)

    def model(x, i):
        return denoise(schedule, "x0", "fixed_small", x0, x, torch.full((3,), i), clip=True)

    torch.testing.assert_close(solver(model, noise(), schedule, noise=noise), x0)


@pytest.mark.parametrize("solver", [ddim, ddpm])
def test_one_step(solver):
    schedule = walked(1)
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    out = solver(gaussian_model(schedule), x, schedule, noise=never)
    assert float(out) == pytest.approx(M, abs=1e-3)
