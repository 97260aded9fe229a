"""An image as a map: a view of it that leaves something to paint."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field

from ..core.conditioning import Conditioner, Observation, PluginConfig, Signal, Spec
from ..core.errors import MsdmError
from ..core.sample import Image, Sample
from .maps import absent_map

DENSEST = 2.0
"""Optical density of haematoxylin that is the upper end of its view."""


class ReferenceImageConfig(PluginConfig):
    """Settings of `ReferenceImage`."""

    view: Literal["grey", "haematoxylin", "low_resolution"] = Field(
        "grey", description="What of the image is seen."
    )
    factor: int = Field(8, ge=2, description="Side of a pixel of the view low_resolution, in pixels.")


class ReferenceImage(Conditioner):
    """A view of the appearance's image: a map of 1 channel, or 3 of low resolution, in [-1, 1].

    ``grey``: luma (ITU-R BT.601). ``haematoxylin``: its optical density by colour deconvolution (Ruifrok and
    Johnston 2001), which IHC and H&E share: 0 is -1, `DENSEST` is 1. ``low_resolution``: means of squares of
    `factor` pixels, those at the right and lower border cut. The image as it is would leave nothing to paint:
    in training it is the very image that is painted.

    The condition of Palette (Saharia et al. 2022, arXiv 2111.05826), by the injector ``concat``. It belongs
    to the facet appearance, and brings its layout along: of another field's appearance the map shows that
    field, scaled to the size of the masks where its own is another. The absent map is -2.
    """

    Config = ReferenceImageConfig
    reads = frozenset({"appearance"})

    def __init__(self, config: ReferenceImageConfig, facts: Mapping[str, Any]) -> None:
        super().__init__(config, facts)
        self.spec = Spec("map", 3 if config.view == "low_resolution" else 1)

    def observe(self, sample: Sample) -> Observation:
        """``view``: (1 or 3, H, W) float32 in [-1, 1].

        Raises
        ------
        MsdmError
            The appearance has no image.
        """
        image = sample.appearance.image
        if image is None:
            raise MsdmError(
                f"sample {sample.id!r}: its appearance (from {sample.source('appearance')!r}) has no image "
                f"for reference_image; take the appearance of a field with an image"
            )
        views = {"grey": _grey, "haematoxylin": _haematoxylin}
        seen = (
            views[self.config.view](image) if self.config.view in views else _low(image, self.config.factor)
        )
        view = torch.from_numpy(np.ascontiguousarray(seen, dtype=np.float32).clip(-1, 1))
        if image.shape[1:] != sample.size:
            view = F.interpolate(view[None], sample.size, mode="bilinear", antialias=True)[0]
        return {"view": view}

    def encode(self, batch: Observation) -> Signal:
        return Signal(batch["view"])

    def null(self, like: Signal) -> Signal:
        return absent_map(like)


def _grey(image: Image) -> NDArray[Any]:
    return np.tensordot([[0.299, 0.587, 0.114]], image.astype(np.float64), axes=1)


def _haematoxylin(image: Image) -> NDArray[Any]:
    from skimage.color import hed_from_rgb, separate_stains

    rgb = (np.moveaxis(image, 0, -1).astype(np.float64).clip(-1, 1) + 1) / 2
    # scikit-image takes densities relative to the darkest value that it knows, 1e-6
    density: NDArray[Any] = 6 * separate_stains(rgb, hed_from_rgb)
    return density[None, :, :, 0] * (2 / DENSEST) - 1


def _low(image: Image, factor: int) -> NDArray[Any]:
    mean: NDArray[Any] = image.astype(np.float64)
    for axis in (1, 2):
        size = image.shape[axis]
        starts = np.arange(0, size, factor)
        lengths = np.diff([*starts, size])
        sums = np.add.reduceat(mean, starts, axis=axis)
        shape = [1, 1, 1]
        shape[axis] = -1
        mean = np.repeat(sums / lengths.reshape(shape), lengths, axis=axis)
    return mean
