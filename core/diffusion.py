"""From what the network says to x_0, eps and the reverse step's variance.

Every array of a schedule is kept in fp64 and cast where it meets an image, as the reference does.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .recipe import Prediction, Variance
from .schedule import NoiseSchedule


def extract(values: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """values[index] (B,) as (B, 1, 1, 1) in fp32 (fp64 for fp64 images), on the device of `like`."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    picked = values[index.to(values.device)].to(dtype).to(like.device, non_blocking=True)
    return picked.view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Denoised:
    """The network's view of one step.

    Attributes
    ----------
    x0 : Tensor (B, C, H, W)
        The denoised image, on the scale of images [-1, 1], or latent.
    eps : Tensor (B, C, H, W)
        The noise that goes with `x0`: x_t = sqrt(abar) x0 + sqrt(1 - abar) eps.
    mean : Tensor (B, C, H, W)
        Of p(x_{t-1} | x_t).
    log_variance : Tensor, broadcastable to (B, C, H, W)
        Of p(x_{t-1} | x_t).
    """

    x0: Tensor
    eps: Tensor
    mean: Tensor
    log_variance: Tensor


def q_sample(schedule: NoiseSchedule, x0: Tensor, index: Tensor, noise: Tensor) -> Tensor:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (Ho et al. 2020, equation 4); `index` (B,)."""
    a = schedule.alphas_cumprod
    return extract(a.sqrt(), index, x0) * x0 + extract((1 - a).sqrt(), index, x0) * noise


def target(
    schedule: NoiseSchedule, prediction: Prediction, x0: Tensor, noise: Tensor, index: Tensor
) -> Tensor:
    """What the network is to predict: eps, x_0, or v = sqrt(abar) eps - sqrt(1 - abar) x_0.

    v after Salimans and Ho 2022, section 4.
    """
    if prediction == "eps":
        return noise
    if prediction == "x0":
        return x0
    a = schedule.alphas_cumprod
    return extract(a.sqrt(), index, x0) * noise - extract((1 - a).sqrt(), index, x0) * x0


def x0_from(
    schedule: NoiseSchedule, prediction: Prediction, out: Tensor, x_t: Tensor, index: Tensor
) -> Tensor:
    """x_0 from the network's output `out` (B, C, H, W)."""
    if prediction == "x0":
        return out
    a = schedule.alphas_cumprod
    if prediction == "v":
        return extract(a.sqrt(), index, x_t) * x_t - extract((1 - a).sqrt(), index, x_t) * out
    return extract((1 / a).sqrt(), index, x_t) * x_t - extract((1 / a - 1).sqrt(), index, x_t) * out


def eps_from_x0(schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, index: Tensor) -> Tensor:
    """The noise that goes with x_0."""
    a = schedule.alphas_cumprod
    return (extract((1 / a).sqrt(), index, x_t) * x_t - x0) / extract((1 / a - 1).sqrt(), index, x_t)


def posterior_mean(schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, index: Tensor) -> Tensor:
    """Mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, equation 7)."""
    return (
        extract(schedule.posterior_x0_coefficient, index, x_t) * x0
        + extract(schedule.posterior_xt_coefficient, index, x_t) * x_t
    )


def log_variance(schedule: NoiseSchedule, variance: Variance, raw: Tensor, index: Tensor) -> Tensor:
    """log variance of p(x_{t-1} | x_t).

    ``learned_range``: v log beta + (1 - v) log beta~ with v = (raw + 1) / 2 (Nichol and Dhariwal 2021,
    equation 15); `raw` is (B, C, H, W), the second half of the network's output. ``fixed_large``: beta, with
    beta~ of the second step at the first; ``fixed_small``: beta~.
    """
    small = extract(schedule.posterior_log_variance, index, raw)
    if variance == "fixed_small":
        return small
    if variance == "fixed_large":
        # log beta at the first step would make the last image noisy (Ho et al. 2020, footnote to section 3.2)
        log_betas = torch.cat([schedule.posterior_log_variance[:1], schedule.betas[1:].log()])
        return extract(log_betas, index, raw)
    large = extract(schedule.betas.log(), index, raw)
    fraction = (raw + 1) / 2
    return fraction * large + (1 - fraction) * small


def split_output(raw: Tensor, variance: Variance) -> tuple[Tensor, Tensor]:
    """The prediction and the variance channels; without the latter the prediction stands for both."""
    if variance == "learned_range":
        out, var = raw.chunk(2, dim=1)
        return out, var
    return raw, raw


def denoise(
    schedule: NoiseSchedule,
    prediction: Prediction,
    variance: Variance,
    raw: Tensor,
    x_t: Tensor,
    index: Tensor,
    *,
    clip: Callable[[Tensor], Tensor] | None,
) -> Denoised:
    """The network's raw output as x_0, eps, mean and log variance.

    Parameters
    ----------
    schedule : NoiseSchedule
        The one that is being walked (respaced when sampling).
    raw : Tensor (B, C or 2 C, H, W)
        2 C channels with ``learned_range``.
    x_t : Tensor (B, C, H, W)
    index : Tensor (B,) int64
        Position in `schedule`.
    clip : callable or None
        Brings x_0 to where images are (`Autoencoder.clip`); eps is then that of the clipped x_0.

    Returns
    -------
    Denoised
    """
    out, var = split_output(raw, variance)
    x0 = x0_from(schedule, prediction, out, x_t, index)
    if clip is not None:
        x0 = clip(x0)
    return Denoised(
        x0=x0,
        eps=eps_from_x0(schedule, x0, x_t, index),
        mean=posterior_mean(schedule, x0, x_t, index),
        log_variance=log_variance(schedule, variance, var, index),
    )
