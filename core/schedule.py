"""Noise schedules and respacing."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .errors import MsdmError
from .recipe import Spacing

NOISIEST = -5.1
"""Half log-SNR where `logsnr` and `karras` begin: all but noise. The cosine schedule goes on to -9.9."""
RHO = 7.0
"""Of Karras et al. 2022, equation 5: larger puts more steps to low noise."""


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A discrete variance-preserving schedule: q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I).

    Attributes
    ----------
    betas : Tensor (N,) float64, in (0, 1]
        Of the steps that are taken.
    timesteps : Tensor (N,) int64, ascending
        What the network is told: the indices in the schedule it was trained on.
    """

    betas: Tensor
    timesteps: Tensor

    @classmethod
    def linear(cls, timesteps: int = 1000) -> "NoiseSchedule":
        """Betas from 1e-4 to 0.02, scaled by 1000 / T (Ho et al. 2020, section 4).

        Raises
        ------
        MsdmError
            T is 20 or less: the last beta would reach 1.
        """
        if timesteps <= 20:
            raise MsdmError(
                f"the linear schedule has 21 time steps or more (its last beta is 20 / T), got {timesteps}; "
                f"take more, or the cosine schedule"
            )
        scale = 1000 / timesteps
        betas = torch.linspace(scale * 1e-4, scale * 0.02, timesteps, dtype=torch.float64)
        return cls(betas, torch.arange(timesteps))

    @classmethod
    def cosine(cls, timesteps: int = 1000) -> "NoiseSchedule":
        """abar(t) = cos^2((t + 0.008) / 1.008 pi / 2), beta at most 0.999 (Nichol, Dhariwal 2021, eq. 17)."""

        def abar(t: float) -> float:
            return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - abar((i + 1) / timesteps) / abar(i / timesteps), 0.999) for i in range(timesteps)]
        return cls(torch.tensor(betas, dtype=torch.float64), torch.arange(timesteps))

    @classmethod
    def named(cls, name: str, timesteps: int = 1000) -> "NoiseSchedule":
        """`linear` or `cosine` by name."""
        return {"linear": cls.linear, "cosine": cls.cosine}[name](timesteps)

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """abar (N,) float64."""
        return torch.cumprod(1 - self.betas, dim=0)

    @cached_property
    def alphas_cumprod_prev(self) -> Tensor:
        """abar of the step before, 1 at the first (N,) float64."""
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod[:-1]])

    @cached_property
    def posterior_variance(self) -> Tensor:
        """beta~ of q(x_{t-1} | x_t, x_0), 0 at the first step (Ho et al. 2020, equation 7)."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance(self) -> Tensor:
        """log beta~, that of the second step also at the first, where beta~ is 0 (iDDPM)."""
        if len(self) == 1:
            return self.betas.log()
        return torch.cat([self.posterior_variance[1:2], self.posterior_variance[1:]]).log()

    @cached_property
    def posterior_x0_coefficient(self) -> Tensor:
        """Of x_0 in the posterior's mean (Ho et al. 2020, equation 7)."""
        return self.betas * self.alphas_cumprod_prev.sqrt() / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_xt_coefficient(self) -> Tensor:
        """Of x_t in the posterior's mean (Ho et al. 2020, equation 7)."""
        return (1 - self.alphas_cumprod_prev) * (1 - self.betas).sqrt() / (1 - self.alphas_cumprod)

    @cached_property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio abar / (1 - abar) (N,) float64."""
        return self.alphas_cumprod / (1 - self.alphas_cumprod)

    def respace(self, steps: list[int]) -> "NoiseSchedule":
        """The schedule that visits only `steps`: betas 1 - abar_i / abar_{i-1} (iDDPM, section 4).

        Parameters
        ----------
        steps : list of int
            Ascending indices of this schedule.

        Raises
        ------
        MsdmError
            `steps` is empty, not ascending, or leaves the schedule.
        """
        ascending = all(a < b for a, b in zip(steps, steps[1:], strict=False))
        if not steps or not ascending or steps[0] < 0 or steps[-1] >= len(self):
            raise MsdmError(f"steps must be ascending indices of 0..{len(self) - 1}, got {steps}")
        kept = self.alphas_cumprod[steps]
        previous = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
        return NoiseSchedule(1 - kept / previous, self.timesteps[steps])

    def first(self, n: int) -> "NoiseSchedule":
        """The first `n` steps, those of least noise, at least one: what a walk from an image takes."""
        return self if n >= len(self) else self.respace(list(range(max(1, n))))

    @cached_property
    def half_log_snr(self) -> Tensor:
        """lambda = log(sqrt(abar) / sqrt(1 - abar)) (N,) float64, descending (Lu et al. 2022, section 3)."""
        return 0.5 * self.snr.log()

    def walk(self, n: int, spacing: Spacing) -> "NoiseSchedule":
        """The schedule of `n` of these steps, which is all that a solver works from.

        Parameters
        ----------
        n : int
            1 to N.
        spacing : {'leading', 'trailing', 'linspace', 'logsnr', 'karras'}
            ``leading``: 0, s, 2 s, ... with the stride s = ceil(N / n), guided-diffusion's ``ddimN``; where
            that gives fewer than n steps, floor(k N / n). Mostly stops before N - 1, the purest noise.
            ``trailing``: round((k + 1) N / n) - 1, which starts at N - 1 (Lin et al. 2024, table 2).
            ``linspace``: both ends (guided-diffusion's ``"N"``).
            ``logsnr``: uniform in lambda (Lu et al. 2022, section 3.4), from the last step with lambda of
            `NOISIEST` or more; to the nearest steps, and to their neighbours where two would be the same.
            ``karras``: the same ends, uniform in sigma^(1/7) with sigma = exp(-lambda) (Karras et al. 2022,
            equation 5).

        Raises
        ------
        MsdmError
            `n` is out of range.

        Examples
        --------
        >>> schedule = NoiseSchedule.cosine()
        >>> for spacing in ("leading", "trailing", "linspace", "logsnr", "karras"):
        ...     print(schedule.walk(4, spacing).timesteps.tolist())
        [0, 250, 500, 750]
        [249, 499, 749, 999]
        [0, 333, 666, 999]
        [0, 110, 883, 995]
        [0, 523, 968, 995]
        """
        if not 1 <= n <= len(self):
            raise MsdmError(f"cannot take {n} steps of a schedule of {len(self)}; legal: 1 to {len(self)}")
        return self.respace(_SPACINGS[spacing](self, n))


def _leading(schedule: NoiseSchedule, n: int) -> list[int]:
    steps = list(range(0, len(schedule), -(-len(schedule) // n)))
    return steps if len(steps) == n else [k * len(schedule) // n for k in range(n)]


def _trailing(schedule: NoiseSchedule, n: int) -> list[int]:
    return [round((k + 1) * len(schedule) / n) - 1 for k in range(n)]


def _linspace(schedule: NoiseSchedule, n: int) -> list[int]:
    last = len(schedule) - 1
    return [round(k * last / (n - 1)) for k in range(n)] if n > 1 else [last]


def _logsnr(schedule: NoiseSchedule, n: int) -> list[int]:
    return _nearest(schedule, n, lambda first, last: torch.linspace(first, last, n, dtype=torch.float64))


def _karras(schedule: NoiseSchedule, n: int) -> list[int]:
    def between(first: float, last: float) -> Tensor:
        ends = math.exp(first / RHO), math.exp(last / RHO)
        return RHO * torch.linspace(*ends, n, dtype=torch.float64).log()

    return _nearest(schedule, n, between)


def _nearest(schedule: NoiseSchedule, n: int, between: Callable[[float, float], Tensor]) -> list[int]:
    """The n distinct steps nearest to the log sigmas that `between` puts between the ends."""
    log_sigma = -schedule.half_log_snr
    last = max(int((log_sigma <= -NOISIEST).sum()), n) - 1
    if n == 1:
        return [last]
    log_sigma = log_sigma[: last + 1].contiguous()
    wanted = between(float(log_sigma[0]), float(log_sigma[-1]))
    above = torch.searchsorted(log_sigma, wanted).clamp(1, last)
    nearer_below = wanted - log_sigma[above - 1] < log_sigma[above] - wanted
    steps = (above - nearer_below.long()).tolist()
    # low noise levels lie far apart in lambda, where several wanted ones meet at a step
    for k in range(1, n):
        steps[k] = max(steps[k], steps[k - 1] + 1)
    return [min(step, last - (n - 1 - k)) for k, step in enumerate(steps)]


_SPACINGS: dict[Spacing, Callable[[NoiseSchedule, int], list[int]]] = {
    "leading": _leading,
    "trailing": _trailing,
    "linspace": _linspace,
    "logsnr": _logsnr,
    "karras": _karras,
}
