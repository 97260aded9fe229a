import math

import pytest
import torch

from msdm_kit.core.diffusion import q_sample
from msdm_kit.core.losses import (
    discretized_gaussian_nll,
    min_snr_weight,
    normal_kl,
    training_losses,
    variational_bound,
)
from msdm_kit.core.recipe import DiffusionSection
from msdm_kit.core.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.cosine(100)
LEARNED = DiffusionSection(timesteps=100, variance="learned_range")


def setup(count=4, index=(0, 1, 50, 99)):
    g = torch.Generator().manual_seed(0)
    x0 = torch.rand(count, 3, 4, 4, generator=g) * 2 - 1
    noise = torch.randn(count, 3, 4, 4, generator=g)
    index = torch.tensor(index)
    return {"x0": x0, "noise": noise, "index": index, "x_t": q_sample(SCHEDULE, x0, index, noise)}


def test_kl_is_torchs():
    m1, m2, v1, v2 = torch.randn(4, 50, dtype=torch.float64)
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(normal(m1, (v1 / 2).exp()), normal(m2, (v2 / 2).exp()))
    torch.testing.assert_close(normal_kl(m1, v1, m2, v2), theirs)
    assert torch.equal(normal_kl(m1, v1, m1, v1), torch.zeros(50, dtype=torch.float64))


@pytest.mark.parametrize("log_scale", [-4.0, -1.0, 0.5])
@pytest.mark.parametrize("mean", [-1.2, 0.0, 0.31, 0.99])
def test_the_256_levels_add_up_to_1(mean, log_scale):
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    nll = discretized_gaussian_nll(levels, torch.tensor(mean), torch.tensor(log_scale))
    assert float(torch.exp(-nll).sum()) == pytest.approx(1, abs=1e-6)


def test_likelihood_of_a_level_is_its_share_of_the_gaussian():
    x = torch.tensor([0.0], dtype=torch.float64) + 1 / 255
    nll = discretized_gaussian_nll(x, torch.tensor(0.1), torch.tensor(-2.0))
    normal = torch.distributions.Normal(0.1, math.exp(-2.0))
    share = normal.cdf(x + 1 / 255) - normal.cdf(x - 1 / 255)
    # the tanh formula is within 3e-4 of the cdf
    assert float(torch.exp(-nll)) == pytest.approx(float(share), rel=5e-3)


def test_a_far_off_image_has_finite_likelihood_and_gradient():
    mean = torch.tensor([50.0], requires_grad=True)
    nll = discretized_gaussian_nll(torch.tensor([0.0]), mean, torch.tensor([-8.0]))
    nll.sum().backward()
    assert nll.isfinite().all()
    assert mean.grad.isfinite().all()


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_min_snr_weights(prediction):
    diffusion = DiffusionSection(prediction=prediction, weighting="min_snr", min_snr_gamma=5.0)
    index = torch.tensor([0, 10, 50, 98])
    expected = []
    for abar in SCHEDULE.alphas_cumprod[index].tolist():
        snr = abar / (1 - abar)
        expected.append(min(snr, 5.0) / {"eps": snr, "x0": 1.0, "v": snr + 1}[prediction])
    weight = min_snr_weight(SCHEDULE, diffusion, index)
    assert weight.dtype == torch.float32
    assert weight.tolist() == pytest.approx(expected, rel=1e-6)


def test_min_snr_weighs_one_error_alike_in_every_parameterisation():
    """An error of x_0 costs min(SNR, gamma) whatever the network predicts (Hang et al. 2023, section 3.4)."""
    given, totals = setup(), []
    index = torch.tensor([5, 20, 50, 90])
    given |= {"index": index, "x_t": q_sample(SCHEDULE, given["x0"], index, given["noise"])}
    wrong = given["x0"] + 0.1
    a = SCHEDULE.alphas_cumprod[index].float().view(-1, 1, 1, 1)
    eps = (given["x_t"] - a.sqrt() * wrong) / (1 - a).sqrt()
    for prediction, raw in (("x0", wrong), ("eps", eps), ("v", a.sqrt() * eps - (1 - a).sqrt() * wrong)):
        diffusion = DiffusionSection(prediction=prediction, weighting="min_snr")
        totals.append(training_losses(SCHEDULE, diffusion, raw, **given).total)
    torch.testing.assert_close(totals[1], totals[0], rtol=1e-3, atol=0)
    torch.testing.assert_close(totals[2], totals[0], rtol=1e-3, atol=0)
    torch.testing.assert_close(totals[0], 0.01 * SCHEDULE.snr[index].clamp(max=5).float(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_a_perfect_prediction_costs_nothing(prediction):
    given = setup()
    diffusion = DiffusionSection(prediction=prediction)
    a = SCHEDULE.alphas_cumprod[given["index"]].view(-1, 1, 1, 1).float()
    v = a.sqrt() * given["noise"] - (1 - a).sqrt() * given["x0"]
    raw = {"eps": given["noise"], "x0": given["x0"], "v": v}[prediction]
    losses = training_losses(SCHEDULE, diffusion, raw, **given)
    assert losses.vb is None
    torch.testing.assert_close(losses.total, torch.zeros(4))
    assert torch.equal(losses.total, losses.mse)


def test_losses_are_per_image():
    given = setup()
    losses = training_losses(
        SCHEDULE, DiffusionSection(), given["noise"] + torch.tensor([0, 1, 2, 3.0]).view(-1, 1, 1, 1), **given
    )
    torch.testing.assert_close(losses.total, torch.tensor([0, 1, 4, 9.0]))


def test_the_bound_teaches_the_variance_alone():
    given = setup()
    raw = torch.randn(4, 6, 4, 4, requires_grad=True)
    noise = given.pop("noise")
    bound = variational_bound(SCHEDULE, LEARNED, raw, **given)
    (gradient,) = torch.autograd.grad(bound.sum(), raw)
    assert torch.equal(gradient[:, :3], torch.zeros(4, 3, 4, 4))
    assert (gradient[:, 3:].flatten(1).abs().sum(1) > 0).all()
    losses = training_losses(SCHEDULE, LEARNED, raw, noise=noise, **given)
    torch.testing.assert_close(losses.vb, bound)
    torch.testing.assert_close(losses.total, losses.mse + bound)
    (gradient,) = torch.autograd.grad(losses.mse.sum(), raw)
    assert torch.equal(gradient[:, 3:], torch.zeros(4, 3, 4, 4))


def test_the_bound_of_the_true_posterior_is_zero_but_at_the_first_step():
    given = setup()
    raw = torch.cat([given.pop("noise"), -torch.ones(4, 3, 4, 4)], dim=1)
    bound = variational_bound(SCHEDULE, LEARNED, raw, **given)
    torch.testing.assert_close(bound[1:3], torch.zeros(2), rtol=0, atol=1e-4)
    assert bound[0] > 0


def test_the_bound_is_in_bits():
    given = setup(index=(0, 30, 50, 70))
    raw = torch.cat([given.pop("noise"), torch.ones(4, 3, 4, 4)], dim=1)
    bound = variational_bound(SCHEDULE, LEARNED, raw, **given)
    # the mean is exact and the variance beta instead of beta~: the KL of two centred Gaussians
    ratio = (SCHEDULE.posterior_variance / SCHEDULE.betas)[[30, 50, 70]]
    expected = 0.5 * (ratio - 1 - ratio.log()) / math.log(2)
    torch.testing.assert_close(bound[1:].double(), expected, rtol=1e-2, atol=1e-6)
