"""Solvers on data of which the denoiser is known, in fp64.

Gaussian: x_0 ~ N(m, s^2), pixel by pixel; x_t ~ N(sqrt(abar) m, abar s^2 + 1 - abar), E[x_0 | x_t] is a line
in x_t, and the probability-flow ODE keeps (x_t - mean_t) / std_t. Mixture of two: E[x_0 | x_t] is closed
form, and the end of the ODE comes from scipy.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from msdm_kit.core.diffusion import Denoised, denoise
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.multistep import dpmpp_2m, unipc
from msdm_kit.core.recipe import SampleSection
from msdm_kit.core.schedule import NoiseSchedule
from msdm_kit.core.solvers import ddim, ddpm, heun, solver

M, S = 0.3, 0.4
MEANS, SPREAD = np.array([-0.7, 0.5]), 0.3
DETERMINISTIC = [ddim, dpmpp_2m, unipc, heun]
EVERY = [ddpm, *DETERMINISTIC]
FINE = NoiseSchedule.cosine(100_000)  # so fine that rounding to its steps does not hide an order
X = torch.linspace(-2, 2, 9, dtype=torch.float64).view(-1, 1, 1, 1)


def name_of(value):
    return getattr(value, "__name__", None)


def marginal(schedule, i):
    """Mean and standard deviation of x_t."""
    a = float(schedule.alphas_cumprod[i])
    return a**0.5 * M, (a * S**2 + 1 - a) ** 0.5


def as_model(schedule, x0_of, variance="fixed_small"):
    """A model whose x_0 is `x0_of(x, abar)`."""

    def model(x, i):
        x0 = x0_of(x, float(schedule.alphas_cumprod[i]))
        return denoise(schedule, "x0", variance, x0, x, torch.full((len(x),), i), clip=None)

    return model


def gaussian(x, abar):
    return M + abar**0.5 * S**2 / (abar * S**2 + 1 - abar) * (x - abar**0.5 * M)


def mixture(x, abar):
    """Also of numpy arrays."""
    total = abar * SPREAD**2 + 1 - abar
    off = [x - abar**0.5 * mean for mean in MEANS]
    # the weights of two components of equal width: a logistic function of x
    logit = (off[0] ** 2 - off[1] ** 2) / (2 * total)
    second = 1 / (1 + (-logit).exp()) if isinstance(x, torch.Tensor) else 1 / (1 + np.exp(-logit))
    each = [mean + abar**0.5 * SPREAD**2 / total * o for mean, o in zip(MEANS, off, strict=True)]
    return (1 - second) * each[0] + second * each[1]


def standard_normal(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(count, 1, 1, 1, generator=g, dtype=torch.float64)


def never():
    raise AssertionError("a deterministic solver draws no noise")


def watched(model, seen):
    def watch(x, i):
        seen.append((i, x))
        return model(x, i)

    return watch


def at_step_0(solve, schedule, x0_of):
    """x where the last evaluation is made, before the jump to x_0."""
    seen = []
    solve(watched(as_model(schedule, x0_of), seen), X, schedule, noise=never)
    assert seen[-1][0] == 0
    return seen[-1][1]


def exact_gaussian(schedule):
    (mean, std), (mean_0, std_0) = marginal(schedule, -1), marginal(schedule, 0)
    return mean_0 + std_0 * (X - mean) / std


def exact_mixture(schedule):
    """y = x / sqrt(abar) over sigma: dy / d sigma = (y - x_0) / sigma (Karras et al. 2022, equation 1)."""
    start, end = (float(schedule.snr[k]) ** -0.5 for k in (-1, 0))

    def slope(log_sigma, y):
        sigma = math.exp(log_sigma)
        abar = 1 / (1 + sigma**2)
        return y - mixture(y * abar**0.5, abar)  # sigma d/d sigma

    first = X.flatten().numpy() / float(schedule.alphas_cumprod[-1]) ** 0.5
    span = math.log(start), math.log(end)
    found = solve_ivp(slope, span, first, method="DOP853", rtol=1e-12, atol=1e-12)
    return torch.from_numpy(found.y[:, -1]).view_as(X) * float(schedule.alphas_cumprod[0]) ** 0.5


@pytest.mark.parametrize("spacing", ["logsnr", "karras"])
@pytest.mark.parametrize(
    ("x0_of", "exact"), [(gaussian, exact_gaussian), (mixture, exact_mixture)], ids=name_of
)
@pytest.mark.parametrize(("solve", "order"), [(ddim, 1), (dpmpp_2m, 2), (heun, 2), (unipc, 3)], ids=name_of)
def test_order_of_convergence(solve, order, x0_of, exact, spacing):
    """UniPC's corrector adds one to the order of its predictor, 2."""
    counts = (81, 161, 321)
    end = exact(FINE.walk(counts[0], spacing))
    errors = [float((at_step_0(solve, FINE.walk(n, spacing), x0_of) - end).abs().max()) for n in counts]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders == pytest.approx([order, order], abs=0.25)
    assert errors[-1] < 0.03 * 0.1 ** (order - 1)


def test_a_higher_order_is_nearer_at_12_steps():
    schedule = NoiseSchedule.cosine().walk(12, "logsnr")
    end = exact_mixture(schedule)
    euler, second, third = (
        float((at_step_0(s, schedule, mixture) - end).norm()) for s in (ddim, dpmpp_2m, unipc)
    )
    assert third < second < 0.5 * euler


@pytest.mark.parametrize("spacing", ["logsnr", "trailing"])
def test_two_steps_of_dpmpp_are_ddim(spacing):
    """The first step has no history, and the last lands on x_0: DDIM is DPM-Solver++ of order 1."""
    schedule = NoiseSchedule.cosine().walk(2, spacing)
    model = as_model(schedule, mixture)
    ours = dpmpp_2m(model, X, schedule, noise=never)
    torch.testing.assert_close(ours, ddim(model, X, schedule, noise=never), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("spacing", ["logsnr", "linspace"])
def test_a_constant_denoiser_makes_the_multistep_solvers_ddim(spacing):
    """Without differences in what the network says, every correction is 0."""
    schedule = NoiseSchedule.linear().walk(9, spacing)
    paths = []
    for solve in DETERMINISTIC:
        paths.append(at_step_0(solve, schedule, lambda x, abar: torch.full_like(x, M)))
    for path in paths[1:]:
        torch.testing.assert_close(path, paths[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solve", EVERY, ids=name_of)
@pytest.mark.parametrize("spacing", ["trailing", "logsnr", "karras"])
def test_a_known_image_is_reached(solve, spacing):
    schedule, noise = NoiseSchedule.cosine().walk(5, spacing), standard_normal(3)
    x0 = torch.linspace(-1, 1, 3, dtype=torch.float64).view(-1, 1, 1, 1)
    model = as_model(schedule, lambda x, abar: x0)
    torch.testing.assert_close(solve(model, noise(), schedule, noise=noise), x0)


@pytest.mark.parametrize("solve", EVERY, ids=name_of)
def test_one_step(solve):
    schedule = NoiseSchedule.cosine().walk(1, "trailing")
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    out = solve(as_model(schedule, gaussian), x, schedule, noise=never)
    assert float(out) == pytest.approx(M, abs=1e-3)


@pytest.mark.parametrize("solve", DETERMINISTIC, ids=name_of)
def test_the_batch_does_not_matter(solve):
    schedule = NoiseSchedule.cosine().walk(8, "logsnr")
    model = as_model(schedule, mixture)
    together = solve(model, X, schedule, noise=never)
    alone = torch.cat([solve(model, x[None], schedule, noise=never) for x in X])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solve", EVERY, ids=name_of)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_evaluations_are_counted_and_end_at_step_0(solve, n):
    schedule, seen = NoiseSchedule.cosine().walk(n, "logsnr"), []
    model = watched(as_model(schedule, gaussian), seen)
    solve(model, X, schedule, noise=lambda: torch.zeros_like(X))
    assert len(seen) == solve.evaluations(n)
    steps = [i for i, _ in seen]
    assert steps == sorted(steps, reverse=True)
    assert set(steps) == set(range(n))


def test_heun_evaluates_twice_a_step():
    assert [heun.evaluations(n) for n in (1, 2, 18)] == [1, 3, 35]
    assert [unipc.evaluations(n) for n in (1, 2, 18)] == [1, 2, 18]


@pytest.mark.parametrize("solve", EVERY, ids=name_of)
def test_the_dtype_stays(solve):
    schedule = NoiseSchedule.cosine().walk(4, "logsnr")
    out = solve(as_model(schedule, gaussian), X.float(), schedule, noise=lambda: torch.zeros_like(X.float()))
    assert out.dtype == torch.float32


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_draws_from_the_data(variance):
    schedule, noise = NoiseSchedule.cosine(), standard_normal(8000)
    out = ddpm(as_model(schedule, gaussian, variance), noise(), schedule, noise=noise)
    assert float(out.mean()) == pytest.approx(M, abs=0.015)
    assert float(out.std()) == pytest.approx(S, rel=0.03)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_draws_from_the_data_at_every_eta(eta):
    schedule, noise = NoiseSchedule.cosine().walk(500, "trailing"), standard_normal(8000)
    out = ddim(as_model(schedule, gaussian), noise(), schedule, noise=noise, eta=eta)
    assert float(out.mean()) == pytest.approx(M, abs=0.015)
    assert float(out.std()) == pytest.approx(S, rel=0.03)


@pytest.mark.parametrize("solve", [dpmpp_2m, unipc], ids=name_of)
def test_few_steps_draw_from_the_data(solve):
    schedule, noise = NoiseSchedule.cosine().walk(20, "logsnr"), standard_normal(8000)
    out = solve(as_model(schedule, gaussian), noise(), schedule, noise=never)
    assert float(out.mean()) == pytest.approx(M, abs=0.015)
    assert float(out.std()) == pytest.approx(S, rel=0.03)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "logsnr"])
def test_ddim_at_eta_1_is_ddpm(spacing):
    schedule = NoiseSchedule.linear().walk(30, spacing)
    a, b = standard_normal(7), standard_normal(7)
    model = as_model(schedule, gaussian)
    torch.testing.assert_close(
        ddim(model, a(), schedule, noise=a, eta=1.0), ddpm(model, b(), schedule, noise=b)
    )


@pytest.mark.parametrize(("solve", "eta", "draws"), [(ddim, 0.0, 0), (ddim, 0.3, 9), (ddpm, 0.0, 9)])
def test_noise_is_drawn_at_every_step_but_the_last(solve, eta, draws):
    schedule, count = NoiseSchedule.cosine().walk(10, "trailing"), 0

    def noise():
        nonlocal count
        count += 1
        return torch.zeros_like(X)

    solve(as_model(schedule, gaussian), X, schedule, noise=noise, eta=eta)
    assert count == draws


def test_settings_take_the_solvers_own_where_they_say_nothing():
    def walk(settings, solve, timesteps=1000):
        return solve.settle(settings, timesteps).walk

    assert walk(SampleSection(), ddim) == (40, "leading")
    assert walk(SampleSection(), ddpm) == (1000, "linspace")
    assert walk(SampleSection(steps=7), ddpm) == (7, "linspace")
    assert walk(SampleSection(spacing="karras"), ddim) == (40, "karras")
    assert walk(SampleSection(), ddim, timesteps=30) == (30, "leading")
    with pytest.raises(MsdmError, match="cannot take 31 steps of a schedule of 30; legal: 1 to 30"):
        ddim.settle(SampleSection(steps=31), 30)
    with pytest.raises(ValueError, match="settle"):
        _ = SampleSection(steps=3).walk


def test_a_solver_of_ones_own():
    @solver(steps=3, spacing="logsnr", evaluations=lambda steps: 1)
    def jump(model, x, schedule, *, noise, eta=0.0):
        """Straight to x_0."""
        p: Denoised = model(x, len(schedule) - 1)
        return p.x0

    assert (jump.__name__, jump.__doc__) == ("jump", "Straight to x_0.")
    assert (jump.steps, jump.spacing, jump.evaluations(3), jump.deterministic) == (3, "logsnr", 1, True)
    schedule = NoiseSchedule.cosine().walk(3, "logsnr")
    out = jump(as_model(schedule, gaussian), X, schedule, noise=never)
    assert torch.equal(out, gaussian(X, float(schedule.alphas_cumprod[-1])))
