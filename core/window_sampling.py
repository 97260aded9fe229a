"""Sampling a field of any size by overlapping windows whose predictions are averaged at every step.

MultiDiffusion (Bar-Tal et al. 2023, equation 5): the solver walks the whole field, and at each of its steps
the network's prediction at a pixel is the weighted mean of those of the windows that cover it. There is no
border at which two paintings would have to meet. All of a field lies in files: memory holds a few windows
and a band of rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from . import guard
from .conditioning import Signal
from .denoiser import States, nbytes
from .diffusion import Denoised, denoise
from .errors import MsdmError
from .mapped import MappedTensor, each_band
from .sampling import Sampler
from .seeds import seed_for
from .window_conditions import WindowConditions
from .windows import Grid


@dataclass
class _Prepared:
    """The prepared states of groups of windows: kept while there is room, otherwise made at each step."""

    sampler: Sampler
    conditions: WindowConditions
    grid: Grid
    left: int | None

    def __post_init__(self) -> None:
        self._kept: dict[range, list[States]] = {}

    def __call__(self, group: range) -> list[States]:
        if group in self._kept:
            return self._kept[group]
        signals = self.conditions.signals([self.grid.windows[k] for k in group])
        states = self.sampler.prepare(signals, self.left)
        size = sum(map(nbytes, states)) + _signal_bytes(signals)
        if self.left is None or size <= self.left:
            self._kept[group] = states
            self.left = None if self.left is None else self.left - size
        return states


def draw_windows(
    sampler: Sampler,
    conditions: WindowConditions,
    *,
    id: str,
    seed: int,
    window: int,
    overlap: int,
    batch: int = 1,
    folder: Path | None = None,
    on_windows: Callable[[int], None] | None = None,
) -> MappedTensor:
    """An image of a field.

    Parameters
    ----------
    sampler : Sampler
    conditions : WindowConditions
        Of the field.
    id : str
        The noise is drawn from it, as `Sampler.draw` draws it for the whole field: it depends on no window,
        and a field of one window is what `draw` gives, bit for bit on a CPU.
    seed : int
    window, overlap : int
        As `Grid` takes them; the window is a multiple of the backbone's `multiple`.
    batch : int
        Windows at once. The result is the same but for rounding.
    folder : Path or None
        Where the scratch files are, about 150 bytes a pixel; None is the system's.
    on_windows : callable (count) or None
        Called after each evaluation of the network with the number of its windows.

    Returns
    -------
    MappedTensor (1, 3, H, W)
        In [-1, 1] but for rounding, of the padded size: a multiple of the backbone's `multiple`.

    Raises
    ------
    MsdmError
        The settings start from an image or keep pixels of one, the solver is not elementwise, or the disc is
        too small.
    """
    if sampler.settings.needs_image:
        raise MsdmError(
            "windows neither start from an image nor keep pixels of one; leave out the window, or set "
            "start: noise and keep: nothing"
        )
    grid = Grid(conditions.size, window, overlap)
    shape = (1, 3, *conditions.size)
    generator = torch.Generator().manual_seed(seed_for(seed, "noise", id))

    def noise() -> MappedTensor:
        return MappedTensor(shape, folder).fill_normal(generator)

    with torch.inference_mode():
        model = _model(sampler, conditions, grid, batch, on_windows)
        walk = cast(Any, sampler.solver)  # a solver is elementwise: it takes what behaves as a tensor does
        x = walk(model, noise(), sampler.schedule, noise=noise, eta=sampler.settings.eta)
        clamped: MappedTensor = x.clamp(-1, 1)
        return clamped


def _model(
    sampler: Sampler,
    conditions: WindowConditions,
    grid: Grid,
    batch: int,
    on_windows: Callable[[int], None] | None,
) -> Callable[[MappedTensor, int], Denoised]:
    """The guided denoiser of a field, (x, i) -> Denoised, as solvers call it."""
    prepared = _Prepared(sampler, conditions, grid, sampler.budget)
    diffusion, schedule, clip = sampler.network.diffusion, sampler.schedule, sampler.settings.clip
    timesteps: list[int] = schedule.timesteps.tolist()
    channels = 6 if diffusion.variance == "learned_range" else 3

    def model(x: MappedTensor, i: int) -> Denoised:
        mean = MappedTensor((1, channels, *grid.size), x.folder)
        for group in grid.groups(batch):
            states = prepared(group)
            seen = torch.cat([x.at(*grid.windows[k].at) for k in group])
            seen = seen.to(sampler.device).contiguous(memory_format=torch.channels_last)
            t = torch.full((len(seen),), timesteps[i], device=sampler.device)
            with guard.explained():
                raw = sampler.evaluate(states, seen, t).cpu()
            for k, out in zip(group, raw, strict=True):
                mean.at(*grid.windows[k].at).add_(grid.weights(k) * out)
            if on_windows is not None:
                on_windows(len(group))
        index = torch.full((1,), i, device=schedule.betas.device)

        def denoised(raw: Tensor, x_t: Tensor) -> tuple[Tensor, ...]:
            d = denoise(schedule, diffusion.prediction, diffusion.variance, raw, x_t, index, clip=clip)
            return d.x0, d.eps, d.mean, d.log_variance

        return Denoised(*each_band(denoised, mean, x))

    return model


def _signal_bytes(signals: dict[str, Signal]) -> int:
    tensors: Sequence[Tensor] = [s.data for s in signals.values()]
    return sum(t.untyped_storage().nbytes() for t in tensors)
