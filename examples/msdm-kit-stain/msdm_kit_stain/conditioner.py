"""The stains of a field as a condition."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import nn

from msdm_kit.core.conditioning import Conditioner, Observation, PluginConfig, Signal, Spec
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.sample import Sample

from .macenko import stain_vectors


class StainConfig(PluginConfig):
    """Settings of `Stain`."""

    dim: int = Field(64, ge=1, description="Width of the vector.")
    beta: float = Field(0.15, ge=0, description="Optical density above which a pixel is tissue.")
    alpha: float = Field(1.0, ge=0, lt=50, description="Percentile of the angles at which a stain lies.")


class Stain(Conditioner):
    """Two stain vectors and their strengths: 8 numbers, mapped to a vector; 0 where there is no tissue."""

    Config = StainConfig
    reads = frozenset({"appearance"})

    def __init__(self, config: StainConfig, facts: Mapping[str, Any]) -> None:
        super().__init__(config, facts)
        self.spec = Spec("vector", config.dim)
        self.linear = nn.Linear(8, config.dim)
        self.absent = nn.Parameter(torch.randn(config.dim))

    def observe(self, sample: Sample) -> Observation:
        """``stains``: (8,) float32."""
        image = sample.appearance.image
        if image is None:
            raise MsdmError(
                f"sample {sample.id!r} has no image to measure stains on; take its appearance from a field "
                f"with one"
            )
        found = stain_vectors(image, self.config.beta, self.config.alpha)
        if found is None:
            return {"stains": torch.zeros(8)}
        vectors, strengths = (torch.from_numpy(part).float() for part in found)
        return {"stains": torch.cat([vectors.flatten(), strengths])}

    def encode(self, batch: Observation) -> Signal:
        return Signal(self.linear(batch["stains"]))

    def null(self, like: Signal) -> Signal:
        return Signal(self.absent.to(like.data).expand_as(like.data))
