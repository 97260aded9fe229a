"""Appearance as the mean colour and its deviation, painted on the foreground."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.conditioning import Conditioner, Observation, PluginConfig, Signal, Spec
from ..core.errors import MsdmError
from ..core.sample import Sample
from .maps import MaskKinds, absent_map

_TOLERANCE = 1e-6  # rounding of a mean over float32 pixels


class RGBStatisticsConfig(PluginConfig):
    """Settings of `RGBStatistics`."""

    masks: MaskKinds = ("cell", "nucleus")


class RGBStatistics(Conditioner):
    """Mean and standard deviation of each kind's colours: a map of 6 channels per kind.

    Per kind mean R, G, B in [-1, 1] and deviation R, G, B in [0, 1], on the scale of the image: one constant
    per image and kind (all cells together, all nuclei together), painted on the foreground of the masks to
    be painted, 0 on the background (Winter et al. 2025, arXiv 2510.09121). The colours are the sample's
    appearance, which may be another sample's or given by hand. A cell's foreground includes its nucleus.
    """

    Config = RGBStatisticsConfig
    reads = frozenset({"morphology", "appearance"})
    reach = 0

    def __init__(self, config: RGBStatisticsConfig, facts: Mapping[str, Any]) -> None:
        super().__init__(config, facts)
        self.spec = Spec("map", 6 * len(config.masks))

    def observe(self, sample: Sample) -> Observation:
        """``colours``: (kinds, 6) float32, and ``foreground``: (kinds, H, W) bool.

        Raises
        ------
        MsdmError
            The sample lacks a mask kind; there is a foreground to paint and no colour for it; or the colours
            are not on the image's scale.
        """
        foregrounds, colours = [], []
        for kind in self.config.masks:
            foreground = torch.from_numpy(sample.labels(kind) > 0)
            foregrounds.append(foreground)
            colours.append(self._colour(sample, kind) if foreground.any() else torch.zeros(6))
        return {"colours": torch.stack(colours), "foreground": torch.stack(foregrounds)}

    @staticmethod
    def _colour(sample: Sample, kind: str) -> Tensor:
        found = sample.appearance.colours(kind)
        if found is None:
            raise MsdmError(
                f"sample {sample.id!r} has {kind!r} foreground to paint, and its appearance (from "
                f"{sample.source('appearance')!r}) has none to measure a colour on; take the appearance of a "
                f"field with {kind!r} instances, or give the colours"
            )
        for name, values, low in (("mean", found.mean, -1.0), ("std", found.std, 0.0)):
            if not all(low - _TOLERANCE <= v <= 1.0 + _TOLERANCE for v in values):
                raise MsdmError(
                    f"colour {name} of {kind!r} for sample {sample.id!r} is {tuple(values)}; legal: "
                    f"[{low:g}, 1], on the image's scale of [-1, 1]; from 8-bit values take "
                    f"{'mean / 127.5 - 1' if name == 'mean' else 'std / 127.5'}"
                )
        return torch.tensor([*found.mean, *found.std], dtype=torch.float32)

    def encode(self, batch: Observation) -> Signal:
        painted = batch["colours"][..., None, None] * batch["foreground"][:, :, None]
        return Signal(painted.flatten(1, 2))

    def null(self, like: Signal) -> Signal:
        return absent_map(like)
