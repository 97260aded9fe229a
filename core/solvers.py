"""Solvers of the reverse process: the contract, and those that need one step at a time.

A solver is a short function of `(model, x, schedule, *, noise, eta)`. It walks the schedule from its last
step to its first and returns x_0; every coefficient is a function of the schedule's alphas_cumprod, in fp64.
`model(x, i)` says what the network sees at step `i` of that schedule; `noise()` draws standard normal noise
in the shape of x, from each sample's own generator. The decorator `solver` makes it a `Solver`, which also
knows its own number of steps and spacing; that is what a plugin hands out.
"""

from collections.abc import Callable
from functools import update_wrapper

from torch import Tensor

from .diffusion import Denoised
from .errors import MsdmError
from .recipe import SampleSection, Spacing
from .schedule import NoiseSchedule

Model = Callable[[Tensor, int], Denoised]
Noise = Callable[[], Tensor]
Walk = Callable[..., Tensor]


class Solver:
    """A solver and its own defaults. Calling it calls the function.

    Parameters
    ----------
    walk : callable (model, x, schedule, *, noise, eta) -> Tensor
    steps : int or None
        Its own number of steps; None is every step of the schedule.
    spacing : Spacing
        Its own.
    evaluations : callable (int) -> int
        Evaluations of the model in so many steps.
    deterministic : bool
        It draws no noise when eta is 0.
    """

    def __init__(
        self,
        walk: Walk,
        *,
        steps: int | None,
        spacing: Spacing,
        evaluations: Callable[[int], int] = lambda steps: steps,
        deterministic: bool = True,
    ) -> None:
        self.walk = walk
        self.steps = steps
        self.spacing = spacing
        self.evaluations = evaluations
        self.deterministic = deterministic
        update_wrapper(self, walk)

    def __call__(
        self, model: Model, x: Tensor, schedule: NoiseSchedule, *, noise: Noise, eta: float = 0.0
    ) -> Tensor:
        return self.walk(model, x, schedule, noise=noise, eta=eta)

    def settle(self, settings: SampleSection, timesteps: int) -> SampleSection:
        """The settings with `steps` and `spacing` filled in where they are None.

        Parameters
        ----------
        settings : SampleSection
        timesteps : int
            T of the schedule; the solver's own number of steps is cut to it, or to the part of it that a
            walk from an image takes.

        Raises
        ------
        MsdmError
            More steps are asked for than there are.
        """
        walked = settings.walked(timesteps)
        most = max(1, walked)
        own = most if self.steps is None else min(self.steps, most)
        # a walk of strength 0 takes no steps, however many are asked for
        steps, spacing = (settings.steps or own) if walked else 1, settings.spacing or self.spacing
        if steps > most:
            part = "" if most == timesteps else f", of which strength {settings.strength:g} walks {most}"
            raise MsdmError(
                f"cannot take {steps} steps of a schedule of {timesteps}{part}; legal: 1 to {most}"
            )
        return settings.model_copy(update={"steps": steps, "spacing": spacing})


def solver(
    *,
    steps: int | None,
    spacing: Spacing,
    evaluations: Callable[[int], int] = lambda steps: steps,
    deterministic: bool = True,
) -> Callable[[Walk], Solver]:
    """Decorate a function as a `Solver`, with its parameters.

    Examples
    --------
    >>> @solver(steps=10, spacing="logsnr")
    ... def straight(model, x, schedule, *, noise, eta=0.0):
    ...     return model(x, len(schedule) - 1).x0
    >>> straight.steps
    10
    """

    def decorate(walk: Walk) -> Solver:
        return Solver(
            walk, steps=steps, spacing=spacing, evaluations=evaluations, deterministic=deterministic
        )

    return decorate


@solver(steps=None, spacing="linspace", deterministic=False)
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


@solver(steps=40, spacing="leading")
def ddim(model: Model, x: Tensor, schedule: NoiseSchedule, *, noise: Noise, eta: float = 0.0) -> Tensor:
    """DDIM (Song et al. 2021, equation 12); its own steps are the ``ddim40`` of the SDM and MSDM papers.

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


@solver(steps=20, spacing="logsnr", evaluations=lambda steps: 2 * steps - 1)
def heun(model: Model, x: Tensor, schedule: NoiseSchedule, *, noise: Noise, eta: float = 0.0) -> Tensor:
    """Heun's method in x / sqrt(abar) over sigma = exp(-lambda) (Karras et al. 2022, algorithm 1, no churn).

    Each step evaluates the model at both its ends, but for the last, an Euler step to x_0.

    Parameters
    ----------
    model, x, schedule
        As in `ddpm`.
    noise, eta
        Not used.

    Returns
    -------
    Tensor (B, 3, H, W)
    """
    alpha, sigma = schedule.alphas_cumprod.sqrt().tolist(), (1 - schedule.alphas_cumprod).sqrt().tolist()
    for i in range(len(schedule) - 1, 0, -1):
        p = model(x, i)
        euler = alpha[i - 1] * p.x0 + sigma[i - 1] * p.eps
        change = sigma[i - 1] - alpha[i - 1] / alpha[i] * sigma[i]
        x = euler + 0.5 * change * (model(euler, i - 1).eps - p.eps)
    return model(x, 0).x0
