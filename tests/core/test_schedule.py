import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.schedule import NOISIEST, NoiseSchedule

SPACINGS = ["leading", "trailing", "linspace", "logsnr", "karras"]


def steps_of(schedule, n, spacing):
    return schedule.walk(n, spacing).timesteps.tolist()


@pytest.mark.parametrize("timesteps", [21, 100, 1000])
def test_linear(timesteps):
    schedule = NoiseSchedule.linear(timesteps)
    first, last = 0.1 / timesteps, 20 / timesteps
    expected = [first + (last - first) * i / (timesteps - 1) for i in range(timesteps)]
    assert schedule.betas.tolist() == pytest.approx(expected, rel=1e-12)
    assert schedule.betas.dtype == torch.float64
    assert schedule.timesteps.tolist() == list(range(timesteps))


@pytest.mark.parametrize("timesteps", [1, 20])
def test_linear_needs_steps(timesteps):
    with pytest.raises(MsdmError, match=f"got {timesteps}"):
        NoiseSchedule.linear(timesteps)


@pytest.mark.parametrize("timesteps", [1, 10, 1000])
def test_cosine(timesteps):
    schedule = NoiseSchedule.cosine(timesteps)
    abar = [math.cos((i / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(timesteps + 1)]
    # the product of the ratios telescopes, up to the last step, whose beta is capped
    expected = [a / abar[0] for a in abar[1:-1]]
    assert schedule.alphas_cumprod[:-1].tolist() == pytest.approx(expected, rel=1e-9)
    assert schedule.betas[-1] == 0.999


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_derived_arrays(name):
    s = NoiseSchedule.named(name, 50)
    abar = 1.0
    for i, beta in enumerate(s.betas.tolist()):
        before, abar = abar, abar * (1 - beta)
        assert float(s.alphas_cumprod[i]) == pytest.approx(abar, rel=1e-12)
        assert float(s.alphas_cumprod_prev[i]) == pytest.approx(before, rel=1e-12)
        assert float(s.posterior_variance[i]) == pytest.approx(beta * (1 - before) / (1 - abar), rel=1e-9)
        assert float(s.snr[i]) == pytest.approx(abar / (1 - abar), rel=1e-9)
    assert s.posterior_variance[0] == 0
    assert torch.equal(s.posterior_log_variance[1:], s.posterior_variance[1:].log())
    assert s.posterior_log_variance[0] == s.posterior_log_variance[1]


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_respacing_keeps_the_noise_levels(name, spacing):
    full = NoiseSchedule.named(name)
    s = full.walk(37, spacing)
    kept = s.timesteps.tolist()
    torch.testing.assert_close(s.alphas_cumprod, full.alphas_cumprod[kept], rtol=1e-10, atol=0)
    again = s.respace([0, 5, 36])
    # 1 - beta keeps 8 digits where the last abar is 1e-9
    expected = full.alphas_cumprod[[kept[0], kept[5], kept[36]]]
    torch.testing.assert_close(again.alphas_cumprod, expected, rtol=1e-7, atol=0)
    assert again.timesteps.tolist() == [kept[0], kept[5], kept[36]]


def test_respacing_to_every_step_changes_nothing():
    full = NoiseSchedule.cosine(40)
    torch.testing.assert_close(full.respace(list(range(40))).betas, full.betas, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("steps", [[], [3, 3], [5, 4], [-1, 4], [0, 40]])
def test_respacing_refuses(steps):
    with pytest.raises(MsdmError, match=r"ascending indices of 0\.\.39"):
        NoiseSchedule.cosine(40).respace(steps)


def test_one_step_is_finite():
    s = NoiseSchedule.cosine().respace([999])
    for values in (s.posterior_log_variance, s.posterior_x0_coefficient, s.posterior_xt_coefficient):
        assert values.shape == (1,)
        assert values.isfinite().all()


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(SPACINGS), st.sampled_from(["linear", "cosine"]), st.integers(21, 1500))
def test_a_walk_has_n_ascending_steps(data, spacing, name, timesteps):
    n = data.draw(st.integers(1, timesteps))
    steps = steps_of(NoiseSchedule.named(name, timesteps), n, spacing)
    assert len(steps) == n
    assert all(a < b for a, b in zip(steps, steps[1:], strict=False))
    assert steps[0] >= 0
    assert steps[-1] < timesteps
    if spacing == "leading" or (spacing != "trailing" and n > 1):
        assert steps[0] == 0
    if spacing in ("trailing", "linspace") or n == timesteps:
        assert steps[-1] == timesteps - 1


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_all_steps_are_all_steps(name, spacing):
    assert steps_of(NoiseSchedule.named(name), 1000, spacing) == list(range(1000))


def test_known_lists():
    schedule = NoiseSchedule.linear()
    assert steps_of(schedule, 40, "leading") == list(range(0, 1000, 25))
    linspace = steps_of(schedule, 40, "linspace")
    assert linspace == [round(k * 999 / 39) for k in range(40)]
    assert (linspace[:3], linspace[-2:]) == ([0, 26, 51], [973, 999])
    assert steps_of(schedule, 40, "trailing") == list(range(24, 1000, 25))


@pytest.mark.parametrize(("name", "last"), [("linear", 999), ("cosine", 995)])
@pytest.mark.parametrize("spacing", ["logsnr", "karras"])
def test_the_noisiest_step(name, last, spacing):
    """Of the cosine schedule the last four steps are left out, down to a half log-SNR of -9.9."""
    full = NoiseSchedule.named(name)
    for n in (1, 2, 12, 100):
        assert steps_of(full, n, spacing)[-1] == last
    assert full.half_log_snr[last] >= NOISIEST
    assert last == 999 or full.half_log_snr[last + 1] < NOISIEST
    assert steps_of(full, 998, spacing)[-1] == max(last, 997)


def uniform(first, last, n):
    return [first + (last - first) * k / (n - 1) for k in range(n)]


@pytest.mark.parametrize("n", [2, 5, 9])
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("spacing", ["logsnr", "karras"])
def test_each_step_is_the_nearest_of_all(name, spacing, n):
    full = NoiseSchedule.named(name)
    lam = full.half_log_snr
    last = steps_of(full, n, spacing)[-1]
    ends = float(lam[0]), float(lam[last])
    if spacing == "logsnr":
        wanted = uniform(*ends, n)
    else:
        # Karras et al. 2022, equation 5
        wanted = [-math.log(root**7) for root in uniform(*(math.exp(-e / 7) for e in ends), n)]
    assert steps_of(full, n, spacing) == [int((lam - w).abs().argmin()) for w in wanted]


@pytest.mark.parametrize("n", [0, 31])
def test_too_many_or_too_few(n):
    with pytest.raises(MsdmError, match=f"cannot take {n} steps of a schedule of 30; legal: 1 to 30"):
        NoiseSchedule.linear(30).walk(n, "leading")
