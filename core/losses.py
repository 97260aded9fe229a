"""Training losses: mean squared error, its weighting, and the variational bound of a learned variance."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .diffusion import denoise, extract, posterior_mean, split_output, target
from .recipe import DiffusionSection
from .schedule import NoiseSchedule


@dataclass(frozen=True)
class Losses:
    """Losses of a batch, one number per image.

    Attributes
    ----------
    total : Tensor (B,)
        What is optimised.
    mse : Tensor (B,)
        Mean squared error of the prediction, unweighted.
    vb : Tensor (B,) or None
        Variational bound in bits per dimension, where the variance is learned.
    """

    total: Tensor
    mse: Tensor
    vb: Tensor | None


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(dim=1)


def normal_kl(mean1: Tensor, logvar1: Tensor, mean2: Tensor, logvar2: Tensor) -> Tensor:
    """KL(N1 || N2) in nats, elementwise."""
    return 0.5 * (
        logvar2 - logvar1 - 1 + torch.exp(logvar1 - logvar2) + (mean1 - mean2) ** 2 * torch.exp(-logvar2)
    )


def _approx_cdf(x: Tensor) -> Tensor:
    """Of the standard normal, by the tanh formula that ADM uses (Page 1977)."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def discretized_gaussian_nll(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """-log p(x) in nats of a Gaussian over the 256 levels of [-1, 1] (Ho et al. 2020, equation 13)."""
    centred, inv = x - mean, torch.exp(-log_scale)
    upper = _approx_cdf(inv * (centred + 1 / 255))
    lower = _approx_cdf(inv * (centred - 1 / 255))
    tiny = 1e-12
    log_p = torch.where(
        x < -0.999,
        upper.clamp(min=tiny).log(),
        torch.where(x > 0.999, (1 - lower).clamp(min=tiny).log(), (upper - lower).clamp(min=tiny).log()),
    )
    return -log_p


def gaussian_nll(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """-log p(x) in nats of a Gaussian, elementwise."""
    return 0.5 * (math.log(2 * math.pi) + log_variance + (x - mean) ** 2 * torch.exp(-log_variance))


def variational_bound(
    schedule: NoiseSchedule,
    diffusion: DiffusionSection,
    raw: Tensor,
    x0: Tensor,
    x_t: Tensor,
    index: Tensor,
    *,
    quantised: bool = True,
) -> Tensor:
    """A term of the bound in bits per dimension (B,): KL, or the decoder's likelihood at the first step.

    Ho et al. 2020, equation 5; the mean is detached, so that only the variance learns from it (Nichol and
    Dhariwal 2021, section 3.1). Where x_0 is not `quantised` to the levels of an image, the likelihood is the
    Gaussian's density.
    """
    out, var = split_output(raw, diffusion.variance)
    frozen = torch.cat([out.detach(), var], dim=1) if var is not out else out
    p = denoise(schedule, diffusion.prediction, diffusion.variance, frozen, x_t, index, clip=None)
    true_mean = posterior_mean(schedule, x0, x_t, index)
    true_log_variance = extract(schedule.posterior_log_variance, index, x_t)
    kl = _mean(normal_kl(true_mean, true_log_variance, p.mean, p.log_variance))
    if quantised:
        nll = _mean(discretized_gaussian_nll(x0, p.mean, 0.5 * p.log_variance))
    else:
        nll = _mean(gaussian_nll(x0, p.mean, p.log_variance))
    first = (index == 0).to(x_t.device, non_blocking=True)
    return torch.where(first, nll, kl) / math.log(2)


def min_snr_weight(schedule: NoiseSchedule, diffusion: DiffusionSection, index: Tensor) -> Tensor:
    """Min-SNR-gamma weights (B,) float32 (Hang et al. 2023, section 3.4), for the parameterisation in use.

    min(SNR, gamma) on x_0, divided by SNR for eps and by SNR + 1 for v.
    """
    snr = schedule.snr[index.to(schedule.snr.device)]
    clipped = snr.clamp(max=diffusion.min_snr_gamma)
    by = {"x0": torch.ones_like(snr), "eps": snr, "v": snr + 1}[diffusion.prediction]
    return (clipped / by).to(device=index.device, dtype=torch.float32)


def training_losses(
    schedule: NoiseSchedule,
    diffusion: DiffusionSection,
    raw: Tensor,
    *,
    x0: Tensor,
    x_t: Tensor,
    noise: Tensor,
    index: Tensor,
    quantised: bool = True,
) -> Losses:
    """Losses per image.

    Parameters
    ----------
    schedule : NoiseSchedule
        All time steps.
    diffusion : DiffusionSection
    raw : Tensor (B, C or 2 C, H, W)
        The network's output, float.
    x0, x_t, noise : Tensor (B, C, H, W)
        Image in [-1, 1] or latent, the same with noise, noise.
    index : Tensor (B,) int64
        Best on the CPU, where the schedule is: of a GPU's it is waited for.
    quantised : bool
        Whether x0 has the 256 levels of an image (`Autoencoder.quantised`).

    Returns
    -------
    Losses
    """
    out, _ = split_output(raw, diffusion.variance)
    mse = _mean((out - target(schedule, diffusion.prediction, x0, noise, index)) ** 2)
    total = mse
    if diffusion.weighting == "min_snr":
        total = min_snr_weight(schedule, diffusion, index).to(mse.device, non_blocking=True) * mse
    vb = None
    if diffusion.variance == "learned_range":
        vb = variational_bound(schedule, diffusion, raw, x0, x_t, index, quantised=quantised)
        total = total + vb
    return Losses(total, mse, vb)
