"""From prepared conditions to images: guided solver steps in which only what depends on x_t is computed."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from . import guard, kernels
from .autoencoder import to_images
from .backbone import Features
from .conditioning import Signal
from .denoiser import Denoiser, States, nbytes
from .diffusion import Denoised, denoise
from .graphs import StepGraphs
from .guidance import Branch, combine, plan
from .kernels.convolutions import accelerated
from .known import Known
from .precision import autocast, lowered
from .recipe import SampleSection
from .seeds import seed_for
from .solvers import Model, Solver


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


class Sampler:
    """Paints batches of conditions with one network, one solver and one set of settings.

    What does not depend on x_t is computed once: the weights are cast when the sampler is made, conditions
    are prepared once per batch, the absent conditions of guidance once per size, and the part of the backbone
    that sees no condition, or the same ones in two branches, once per step.

    Parameters
    ----------
    denoiser : Denoiser
        In evaluation mode. Its weights must not change while the sampler is used.
    settings : SampleSection
        Where `steps` or `spacing` is None, it is the solver's own.
    solver : Solver
    budget : int or None
        Most bytes of prepared states, see `Denoiser.prepare`; None is no limit. It changes no result.
    device : torch.device or None
        None is the network's. A network without memory (meta device) walks as it would on this one, without
        numbers: so is its memory found.

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
        settings: SampleSection,
        solver: Solver,
        *,
        budget: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.device = next(denoiser.parameters()).device
        self._computes = device or self.device
        self.network = lowered(denoiser, settings.precision, self._computes)
        self._fast = accelerated(self.network, self._computes)
        self.settings = solver.settle(settings, len(denoiser.schedule))
        self.solver = solver
        self.budget = budget
        walked = settings.walked(len(denoiser.schedule))
        self.schedule = denoiser.schedule.first(walked).walk(*self.settings.walk)
        self._timesteps: list[int] = self.schedule.timesteps.tolist()
        self._branches = plan(settings.guidance, denoiser.names, denoiser.diffusion.variance)
        # what tells the encoder's passes apart: branches that agree in it share one
        encoder_conditions = denoiser.encoder_conditions
        self._seen = [branch.present & encoder_conditions for branch in self._branches]
        self._absent: dict[tuple[torch.Size, ...], States] = {}
        self._graphs = StepGraphs(self.evaluate) if self.device.type == "cuda" and kernels.enabled() else None

    def forget(self) -> None:
        """Give up what is kept for the next batch: memory has run out."""
        self._absent.clear()
        if self._graphs is not None:
            self._graphs = StepGraphs(self.evaluate)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def prepare(self, signals: Mapping[str, Signal], budget: int | None) -> list[States]:
        """The states of each branch of guidance, the absent condition's kept for the next batch.

        `budget` as `Denoiser.prepare` takes it, for all branches together.
        """
        with guard.explained(), autocast(self._computes, self.settings.precision):
            # the absent conditions first: they are small, and serve every batch
            order = sorted(range(len(self._branches)), key=lambda k: len(self._branches[k].present))
            states: dict[int, States] = {}
            left = budget
            for k in order:
                states[k] = self._branch_states(self._branches[k], signals, left)
                left = None if left is None else max(0, left - nbytes(states[k]))
        return [states[k] for k in range(len(order))]

    def _branch_states(self, branch: Branch, signals: Mapping[str, Signal], budget: int | None) -> States:
        present = self.network.present(signals, branch.present)
        if branch.present:
            return self._fast.prepare(present, budget)
        key = tuple(signal.data.shape for signal in present.values())
        if key not in self._absent:
            self._absent[key] = self._fast.prepare(present, budget)
        return self._absent[key]

    def evaluate(self, states: Sequence[States], x: Tensor, t: Tensor) -> Tensor:
        """The guided raw prediction (B, C or 2 C, H, W) fp32 of x (B, C, H, W) at time steps t (B,)."""
        network, outputs = self.network, []
        shared: dict[frozenset[str], Features] = {}
        with autocast(self._computes, self.settings.precision):
            for seen, of_branch in zip(self._seen, states, strict=True):
                inject = network.bind(of_branch)
                if seen not in shared:
                    shared[seen] = self._fast.backbone.encode(x, t, inject)
                outputs.append(self._fast.backbone.decode(shared[seen], inject).float())
        return combine(self._branches, outputs, network.diffusion.variance)

    def model(self, signals: Mapping[str, Signal], on_step: Callable[[], None] | None = None) -> Model:
        """The guided denoiser of these conditions, (x, i) -> Denoised, as solvers call it.

        Parameters
        ----------
        signals : mapping name -> Signal
        on_step : callable or None
            Called after each evaluation.
        """
        states = self.prepare(signals, self.budget)
        evaluate = self._graphs.bind(states) if self._graphs is not None else partial(self.evaluate, states)

        def model(x: Tensor, i: int) -> Denoised:
            raw = self.predict(evaluate, x, i)
            if on_step is not None:
                on_step()
            return self.denoised(raw, x, i)

        return model

    def predict(self, evaluate: Callable[[Tensor, Tensor], Tensor], x: Tensor, i: int) -> Tensor:
        """The raw prediction of x (B, C, H, W) at position `i` of the schedule.

        Parameters
        ----------
        evaluate : callable (x, t) -> raw
            `evaluate` of prepared states.
        """
        # t is made where it is read: a copy between devices would make every step wait for the one before
        t = torch.full((len(x),), self._timesteps[i], device=x.device)
        with guard.explained():
            return evaluate(x, t)

    def denoised(self, raw: Tensor, x: Tensor, i: int) -> Denoised:
        """What the raw prediction of x at position `i` of the schedule says of x_0: elementwise."""
        d, index = self.network.diffusion, torch.full((len(x),), i, device=self.schedule.betas.device)
        clip = self.network.autoencoder.clip if self.settings.clip else None
        return denoise(self.schedule, d.prediction, d.variance, raw, x, index, clip=clip)

    @torch.inference_mode()
    def draw(
        self,
        signals: Mapping[str, Signal],
        *,
        ids: Sequence[str],
        size: tuple[int, int],
        seed: int,
        known: Known | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Tensor:
        """Images of a batch of conditions.

        Parameters
        ----------
        signals : mapping name -> Signal
            One row per id.
        ids : sequence of str
            Unique; the noise is drawn from them.
        size : (int, int)
            Height and width in pixels, multiples of `Denoiser.multiple`.
        seed : int
        known : Known or None
            Real images, on the sampler's device, one row per id: where the settings start from an image or
            keep pixels.
        on_step : callable or None
            Called after each evaluation of the network.

        Returns
        -------
        Tensor (B, 3, H, W) float32 in [-1, 1]

        Raises
        ------
        MsdmError
            The settings need an image, and there is none of this size.
        """
        Known.check(known, self.settings, size)
        if known is not None and self.settings.walked(len(self.network.schedule)) == 0:
            return known.image
        autoencoder = self.network.autoencoder
        noise = SampleNoise(seed, ids, autoencoder.shape((3, *size)), self.device)
        model = self.model(signals, on_step)
        x = noise()
        if known is not None:
            inner = known.encoded(autoencoder)
            model, x = inner.hold(model, self.schedule), inner.begin(x, self.schedule, self.settings)
        x = self.solver(model, x, self.schedule, noise=noise, eta=self.settings.eta)
        x = to_images(autoencoder, x).clamp(-1, 1)
        return x if known is None else known.finish(x)
