"""From prepared conditions to images: guided solver steps in which only what depends on x_t is computed."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .conditioning import Signal
from .denoiser import Denoiser
from .diffusion import Denoised, denoise
from .guidance import combine, plan
from .precision import autocast
from .recipe import SampleSection
from .schedule import spaced_steps
from .seeds import seed_for
from .solvers import Solver


class SampleNoise:
    """Standard normal noise in which each sample has a generator of its own.

    A sample's noise depends on (seed, id) alone, never on the batch that it is drawn with.

    Parameters
    ----------
    seed : int
    ids : sequence of str
    shape : tuple of int
        Of one sample.
    device : torch.device
        Drawn on the CPU, so that it is the same on every device.
    """

    def __init__(self, seed: int, ids: Sequence[str], shape: tuple[int, ...], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(seed_for(seed, "noise", i)) for i in ids]
        self.shape = shape
        self.device = device

    def __call__(self) -> Tensor:
        rows = [torch.randn(self.shape, generator=g) for g in self.generators]
        return torch.stack(rows).to(self.device, memory_format=torch.channels_last)


class GuidedModel:
    """The guided denoiser of the walked schedule, its conditions prepared once: (x, i) -> Denoised.

    Parameters
    ----------
    denoiser : Denoiser
    signals : mapping name -> Signal
    settings : SampleSection
        `steps`, `spacing`, `guidance`, `clip` and `precision` are read.
    on_step : callable or None
        Called after each evaluation.

    Attributes
    ----------
    schedule : NoiseSchedule
        The walked one.

    Raises
    ------
    MsdmError
        There are more steps than the schedule has.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        signals: Mapping[str, Signal],
        settings: SampleSection,
        *,
        on_step: Callable[[], None] | None = None,
    ) -> None:
        d = denoiser.diffusion
        self.denoiser = denoiser
        self.settings = settings
        self.schedule = denoiser.schedule.respace(spaced_steps(d.timesteps, settings.steps, settings.spacing))
        self._on_step = on_step
        self._branches = plan(settings.guidance, denoiser.names, d.variance)
        with autocast(_device(denoiser), settings.precision):
            self._injects = [
                denoiser.bind(denoiser.prepare(denoiser.present(signals, b.present))) for b in self._branches
            ]

    def __call__(self, x: Tensor, i: int) -> Denoised:
        """What the network sees of x (B, 3, H, W) at step `i` of the schedule."""
        d, backbone = self.denoiser.diffusion, self.denoiser.backbone
        index = torch.full((len(x),), i, device=x.device)
        t = self.schedule.timesteps[i].to(x.device).expand(len(x))
        with autocast(x.device, self.settings.precision):
            if self.denoiser.encoder_sees_condition:
                every = [backbone.encode(x, t, inject) for inject in self._injects]
            else:
                every = [backbone.encode(x, t, self._injects[-1])] * len(self._injects)
            outputs = [
                backbone.decode(features, inject).float()
                for features, inject in zip(every, self._injects, strict=True)
            ]
        raw = combine(self._branches, outputs, d.variance)
        if self._on_step is not None:
            self._on_step()
        return denoise(self.schedule, d.prediction, d.variance, raw, x, index, clip=self.settings.clip)


def draw(
    denoiser: Denoiser,
    signals: Mapping[str, Signal],
    *,
    ids: Sequence[str],
    size: tuple[int, int],
    settings: SampleSection,
    solver: Solver,
    seed: int,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """Images of a batch of conditions.

    Parameters
    ----------
    denoiser : Denoiser
        In evaluation mode.
    signals : mapping name -> Signal
        One row per id.
    ids : sequence of str
        Unique; the noise is drawn from them.
    size : (int, int)
        Height and width in pixels, multiples of the backbone's `multiple`.
    settings : SampleSection
    solver : Solver
    seed : int
    on_step : callable or None
        Called after each step.

    Returns
    -------
    Tensor (B, 3, H, W) float32 in [-1, 1]
    """
    with torch.inference_mode():
        model = GuidedModel(denoiser, signals, settings, on_step=on_step)
        noise = SampleNoise(seed, ids, (3, *size), _device(denoiser))
        x = solver(model, noise(), model.schedule, noise=noise, eta=settings.eta)
        return x.clamp(-1, 1)


def _device(denoiser: Denoiser) -> torch.device:
    return next(denoiser.parameters()).device
