"""Flips and quarter turns of a whole field."""

import numpy as np
from pydantic import Field

from ...core.conditioning import PluginConfig
from .base import MaskOperation
from .units import Masks


class FlipTurnConfig(PluginConfig):
    """Settings of `FlipTurn`."""

    flips: bool = Field(True, description="Flip left to right and top to bottom, each with probability 1/2.")
    turns: bool = Field(True, description="Turn by 0, 90, 180 or 270 degrees, each with probability 1/4.")


class FlipTurn(MaskOperation):
    """The field flipped and turned: no pixel is lost, and labels stay.

    A field that is not square is turned by 0 or 180 degrees, so that it keeps its size.
    """

    Config = FlipTurnConfig

    def apply(self, masks: Masks, rng: np.random.Generator, other: Masks | None = None) -> Masks:
        mirror, upend, quarters = (int(rng.integers(n)) for n in (2, 2, 4))
        changed = {}
        for kind, labels in masks.items():
            if self.config.flips:
                labels = labels[:: -1 if upend else 1, :: -1 if mirror else 1]
            if self.config.turns:
                square = labels.shape[0] == labels.shape[1]
                labels = np.rot90(labels, quarters if square else quarters // 2 * 2)
            changed[kind] = labels.copy()
        return changed
