"""Noise schedules and respacing."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .errors import MsdmError
from .recipe import Spacing


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


def spaced_steps(timesteps: int, n: int, spacing: Spacing) -> list[int]:
    """`n` of `timesteps` indices, ascending: the one list from which every solver works.

    Parameters
    ----------
    timesteps : int
        T, the length of the schedule.
    n : int
        1 to T.
    spacing : {'leading', 'trailing', 'linspace'}
        ``leading``: 0, s, 2 s, ... with the stride s = ceil(T / n), guided-diffusion's ``ddimN``; where that
        gives fewer than n steps, floor(k T / n). Mostly stops before T - 1, the purest noise. ``trailing``:
        round((k + 1) T / n) - 1, which starts at T - 1 (Lin et al. 2024, table 2).
        ``linspace``: both ends (guided-diffusion's ``"N"``).

    Raises
    ------
    MsdmError
        `n` is out of range.

    Examples
    --------
    >>> spaced_steps(1000, 4, "leading")
    [0, 250, 500, 750]
    >>> spaced_steps(1000, 4, "trailing")
    [249, 499, 749, 999]
    >>> spaced_steps(1000, 4, "linspace")
    [0, 333, 666, 999]
    """
    if not 1 <= n <= timesteps:
        raise MsdmError(f"cannot take {n} steps of a schedule of {timesteps}; legal: 1 to {timesteps}")
    if spacing == "leading":
        steps = list(range(0, timesteps, -(-timesteps // n)))
        return steps if len(steps) == n else [k * timesteps // n for k in range(n)]
    if spacing == "trailing" or n == 1:
        return [round((k + 1) * timesteps / n) - 1 for k in range(n)]
    return [round(k * (timesteps - 1) / (n - 1)) for k in range(n)]
