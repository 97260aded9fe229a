"""Solvers of the reverse process. Each is a short function of one contract.

`model(x, i)` says what the network sees at step `i` of the schedule that is being walked; `noise()` draws
standard normal noise in the shape of x, from each sample's own generator.
"""

from collections.abc import Callable

from torch import Tensor

from .diffusion import Denoised
from .schedule import NoiseSchedule

Model = Callable[[Tensor, int], Denoised]
Noise = Callable[[], Tensor]
Solver = Callable[..., Tensor]


def ddpm(model: Model, x: Tensor, schedule: NoiseSchedule, *, noise: Noise, eta: float = 0.0) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2).

    Parameters
    ----------
    model : callable (x, i) -> Denoised
    x : Tensor (B, 3, H, W)
        Standard normal noise.
    schedule : NoiseSchedule
        Walked from its last step to its first.
    noise : callable () -> Tensor (B, 3, H, W)
    eta : float
        Not used.

    Returns
    -------
    Tensor (B, 3, H, W)
    """
    for i in reversed(range(len(schedule))):
        p = model(x, i)
        x = p.mean
        if i > 0:
            x = x + (0.5 * p.log_variance).exp() * noise()
    return x


def ddim(model: Model, x: Tensor, schedule: NoiseSchedule, *, noise: Noise, eta: float = 0.0) -> Tensor:
    """DDIM (Song et al. 2021, equation 12).

    Parameters
    ----------
    model, x, schedule, noise
        As in `ddpm`.
    eta : float
        0 is deterministic, 1 adds as much noise as ancestral sampling (equation 16).

    Returns
    -------
    Tensor (B, 3, H, W)
    """
    a, prev = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
    for i in reversed(range(len(schedule))):
        p = model(x, i)
        sigma = eta * ((1 - prev[i]) / (1 - a[i]) * (1 - a[i] / prev[i])).sqrt()
        x = float(prev[i].sqrt()) * p.x0 + float((1 - prev[i] - sigma**2).clamp(min=0).sqrt()) * p.eps
        if eta > 0 and i > 0:
            x = x + float(sigma) * noise()
    return x
