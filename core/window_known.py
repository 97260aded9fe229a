"""What is known of a large field before it is painted, in files: `Known` by bands and by windows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .autoencoder import Autoencoder
from .known import Known
from .mapped import MappedTensor, each_band
from .windows import Grid


@dataclass(frozen=True)
class MappedKnown:
    """The real image of a field, or its latent, and which of it stays.

    Attributes
    ----------
    image : MappedTensor (1, C, H, W)
    keep : MappedTensor (1, 1, H, W) or None
        1 at what stays as it is, 0 elsewhere; None keeps nothing.
    """

    image: MappedTensor
    keep: MappedTensor | None

    @classmethod
    def of(cls, known: Known, folder: Path | None) -> "MappedKnown":
        """A copy in files of what is known of one field."""
        keep = None if known.keep is None else MappedTensor.of(known.keep, folder)
        return cls(MappedTensor.of(known.image, folder), keep)

    def each(self, function: Callable[..., Any], *maps: MappedTensor) -> Any:
        """An elementwise function of a `Known` and of more maps, band by band, as `each_band` has it."""

        def on_band(image: Tensor, keep: Tensor | None, *bands: Tensor) -> Any:
            return function(Known(image, None if keep is None else keep > 0), *bands)

        return each_band(on_band, self.image, self.keep, *maps)

    def encoded(self, autoencoder: Autoencoder, grid: Grid, device: torch.device) -> "MappedKnown":
        """The same in latents: at every place the weighted mean of those of the windows that cover it."""
        inner, folder = grid.coarser(autoencoder.stride), self.image.folder
        latent = MappedTensor((1, autoencoder.channels, *inner.size), folder)
        kept = None if self.keep is None else MappedTensor((1, 1, *inner.size), folder)
        for k, (window, seen) in enumerate(zip(grid.windows, inner.windows, strict=True)):
            keep = None if self.keep is None else self.keep.at(*window.at) > 0
            known = Known(self.image.at(*window.at), keep).to(device).encoded(autoencoder)
            latent.at(*seen.at).add_(inner.weights(k) * known.image.cpu())
            if kept is not None and known.keep is not None:
                kept.at(*seen.at).copy_(known.keep)
        return MappedKnown(latent, kept)
