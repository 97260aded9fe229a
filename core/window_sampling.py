"""Sampling a field of any size by overlapping windows whose predictions are averaged at every step.

MultiDiffusion (Bar-Tal et al. 2023, equation 5): the solver walks the whole field, and at each of its steps
the network's prediction at a pixel is the weighted mean of those of the windows that cover it. There is no
border at which two paintings would have to meet. All of a field lies in files: memory holds a few windows
and a band of rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from . import guard
from .autoencoder import Autoencoder, Pixels, to_images
from .conditioning import Signal
from .denoiser import States, nbytes
from .diffusion import Denoised
from .errors import out_of_memory
from .known import Known
from .mapped import MappedTensor, each_band
from .sampling import Sampler
from .seeds import seed_for
from .shortage import Shortage
from .window_conditions import WindowConditions
from .window_known import MappedKnown
from .windows import Grid, Window


@dataclass
class _Prepared:
    """The prepared states of groups of windows: kept while there is room, otherwise made at each step."""

    sampler: Sampler
    conditions: WindowConditions
    grid: Grid
    left: int | None

    def __post_init__(self) -> None:
        self._kept: dict[range, list[States]] = {}

    def forget(self) -> None:
        """Give up what is kept; its bytes are not asked for again."""
        self._kept.clear()

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
    known: Known | None = None,
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
        As `Grid` takes them; the window is a multiple of `Denoiser.multiple`, the overlap one of the
        autoencoder's stride.
    batch : int
        Windows at once. The result is the same but for rounding.
    known : Known or None
        The real image (1, 3, H, W) of the padded field, on the CPU: where the settings start from an image or
        keep pixels.
    folder : Path or None
        Where the scratch files are, about 150 bytes a pixel; None is the system's.
    on_windows : callable (count) or None
        Called after each evaluation of the network with the number of its windows.

    Returns
    -------
    MappedTensor (1, 3, H, W)
        In [-1, 1] but for rounding, of the padded size: a multiple of `Denoiser.multiple`. Latents are
        decoded window by window, and images averaged as predictions are.

    Raises
    ------
    MsdmError
        The settings need an image and there is none of this size, the solver is not elementwise, the disc is
        too small, or what the network says of a window is not finite.
    """
    Known.check(known, sampler.settings, conditions.size)
    whole = None if known is None else MappedKnown.of(known, folder)
    if whole is not None and sampler.settings.walked(len(sampler.network.schedule)) == 0:
        return whole.image
    grid = Grid(conditions.size, window, overlap)
    autoencoder = sampler.network.autoencoder
    channels, height, width = autoencoder.shape((3, *conditions.size))
    generator = torch.Generator().manual_seed(seed_for(seed, "noise", id))

    def noise() -> MappedTensor:
        return MappedTensor((1, channels, height, width), folder).fill_normal(generator)

    with torch.inference_mode():
        inner = whole
        if whole is not None and not isinstance(autoencoder, Pixels):
            inner = whole.encoded(autoencoder, grid, sampler.device)
        x = noise()
        if inner is not None:
            x = inner.each(lambda k, noise: k.begin(noise, sampler.schedule, sampler.settings), x)
        painter = _Painter(sampler, conditions, grid, batch, inner, id, on_windows)
        walk = cast(Any, sampler.solver)  # a solver is elementwise: it takes what behaves as a tensor does
        x = walk(painter, x, sampler.schedule, noise=noise, eta=sampler.settings.eta)
        if isinstance(autoencoder, Pixels):
            image: MappedTensor = x.clamp(-1, 1)
        else:
            image = _decoded(autoencoder, x, grid, sampler.device)
        if whole is not None:
            image = whole.each(lambda k, band: k.finish(band), image)
        for seen in grid.windows:
            if not bool(image.at(*seen.at).isfinite().all()):
                painter.unpaintable(seen)
    return image


def _decoded(
    autoencoder: Autoencoder, latent: MappedTensor, grid: Grid, device: torch.device
) -> MappedTensor:
    """The image of a latent that is in a file; at every pixel the weighted mean of the windows' images."""
    image = MappedTensor((1, 3, *grid.size), latent.folder)
    inner = grid.coarser(autoencoder.stride)
    for k, (window, seen) in enumerate(zip(grid.windows, inner.windows, strict=True)):
        decoded = to_images(autoencoder, latent.at(*seen.at).to(device)).clamp(-1, 1)
        image.at(*window.at).add_(grid.weights(k) * decoded.cpu())
    return image


class _Painter:
    """The guided denoiser of a field, (x, i) -> Denoised, as solvers call it."""

    def __init__(
        self,
        sampler: Sampler,
        conditions: WindowConditions,
        grid: Grid,
        batch: int,
        known: MappedKnown | None,
        id: str,
        on_windows: Callable[[int], None] | None,
    ) -> None:
        self._sampler, self._conditions, self._grid = sampler, conditions, grid
        self._batch, self._known, self._id, self._on_windows = batch, known, id, on_windows
        self._prepared = _Prepared(sampler, conditions, grid, sampler.budget)
        self._shortage = Shortage("windows")
        # the windows that the network sees, and what they weigh there
        self._inner = grid.coarser(sampler.network.autoencoder.stride)

    def __call__(self, x: MappedTensor, i: int) -> Denoised:
        mean = self._mean(x, i)

        def denoised(known: Known | None, raw: Tensor, x_t: Tensor) -> tuple[Tensor, ...]:
            d = self._sampler.denoised(raw, x_t, i)
            d = d if known is None else known.put(d, x_t, i, self._sampler.schedule)
            return d.x0, d.eps, d.mean, d.log_variance

        if self._known is None:
            return Denoised(*each_band(partial(denoised, None), mean, x))
        return Denoised(*self._known.each(denoised, mean, x))

    def _mean(self, x: MappedTensor, i: int) -> MappedTensor:
        """What the network says of the windows, averaged."""
        sampler, inner, network = self._sampler, self._inner, self._sampler.network
        channels = (2 if network.diffusion.variance == "learned_range" else 1) * network.autoencoder.channels
        mean = MappedTensor((1, channels, *inner.size), x.folder)
        done = 0
        while done < len(inner.windows):
            group = range(done, min(done + self._shortage.at_once(self._batch), len(inner.windows)))
            raw = self._predicted(x, i, group)
            if raw is None:
                self._prepared.forget()
                sampler.forget()
                continue
            done = group.stop
            for k, out in zip(group, raw, strict=True):
                if bool(out.isnan().any()):  # it would spread, and nothing mends it: not after hours
                    self.unpaintable(self._grid.windows[k])
                mean.at(*inner.windows[k].at).add_(inner.weights(k) * out)
            if self._on_windows is not None:
                self._on_windows(len(group))
        return mean

    def _predicted(self, x: MappedTensor, i: int, group: range) -> Tensor | None:
        """What the network says of a group of windows, on the CPU; None where memory ran out, and less is
        taken from now on."""
        sampler, inner = self._sampler, self._inner
        try:
            seen = torch.cat([x.at(*inner.windows[k].at) for k in group])
            seen = seen.to(sampler.device).contiguous(memory_format=torch.channels_last)
            return sampler.predict(partial(sampler.evaluate, self._prepared(group)), seen, i).cpu()
        except Exception as error:
            if not out_of_memory(error) or not self._shortage.retreat(
                len(group), keeps=self._prepared.left != 0
            ):
                raise
        if self._shortage.frugal:
            self._prepared.left = 0
        return None

    def unpaintable(self, window: Window) -> NoReturn:
        """Say that a window's numbers are not finite, and why."""
        where = f"field {self._id}, in the window from row {window.top}, column {window.left}"
        guard.unpaintable(where, self._conditions.signals([window]), self._sampler.network.by_name)


def _signal_bytes(signals: dict[str, Signal]) -> int:
    tensors: Sequence[Tensor] = [s.data for s in signals.values()]
    return sum(t.untyped_storage().nbytes() for t in tensors)
