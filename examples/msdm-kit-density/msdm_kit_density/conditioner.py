"""How dense instances stand around each pixel, as a condition."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from msdm_kit.core.conditioning import Conditioner, Observation, PluginConfig, Signal, Spec, constant_map
from msdm_kit.core.sample import Labels, Sample


def density(labels: Labels, sigma: float) -> NDArray[np.float32]:
    """A Gaussian of height 1 at the centroid of each instance (Lempitsky and Zisserman 2010, scaled).

    Parameters
    ----------
    labels : ndarray (H, W) int32
        0 is background.
    sigma : float
        In pixels.

    Returns
    -------
    ndarray (H, W) float32
        At least 0. The sum over a large field is the number of instances times 2 pi sigma^2.
    """
    from scipy.ndimage import gaussian_filter

    _, index = np.unique(labels, return_inverse=True)
    index = index.reshape(labels.shape)
    inside = labels > 0
    centres = np.zeros(labels.shape, np.float64)
    if inside.any():
        rows, columns = np.nonzero(inside)
        of = index[inside]
        count = np.bincount(of)
        there = count > 0
        y, x = (
            np.rint(np.bincount(of, weights=p)[there] / count[there]).astype(int) for p in (rows, columns)
        )
        np.add.at(centres, (y, x), 1)
    smooth = gaussian_filter(centres, sigma, mode="constant", truncate=6)
    return np.asarray(2 * math.pi * sigma**2 * smooth, np.float32)


class DensityConfig(PluginConfig):
    """Settings of `Density`."""

    mask: str = Field("nucleus", description="Mask kind whose instances are counted.")
    sigma: float = Field(8.0, ge=1, le=256, description="Of the Gaussian at each centre, in pixels.")


class Density(Conditioner):
    """Density of instance centres: a map of one channel. Absent it is -1, which no density is."""

    Config = DensityConfig
    reads = frozenset({"morphology"})

    def __init__(self, config: DensityConfig, facts: Mapping[str, Any]) -> None:
        super().__init__(config, facts)
        self.spec = Spec("map", 1)

    def observe(self, sample: Sample) -> Observation:
        """``map``: (1, H, W) float32."""
        found = density(sample.labels(self.config.mask), self.config.sigma)
        return {"map": torch.from_numpy(found)[None]}

    def encode(self, batch: Observation) -> Signal:
        return Signal(batch["map"])

    def null(self, like: Signal) -> Signal:
        return constant_map(torch.full((1,), -1.0), like)
