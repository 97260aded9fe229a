"""The Haar wavelet transform as an autoencoder: nothing is lost, and nothing is learned."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ...core.autoencoder import Autoencoder
from ...core.conditioning import PluginConfig


class HaarConfig(PluginConfig):
    """Settings of the Haar transform."""

    levels: int = Field(
        2, ge=1, le=5, description="Transforms, each of the averages of the last; the stride is 2 to this."
    )
    scale: float = Field(1.0, gt=0, description="What coefficients are multiplied by.")


class Haar(Autoencoder):
    """The two-dimensional Haar transform of each colour (Haar 1910; Mallat 1989).

    Of four pixels [[a, b], [c, d]] the average (a + b + c + d) / 2 and the details (a - b + c - d) / 2,
    (a + b - c - d) / 2 and (a - b - c + d) / 2; the averages are transformed again. Finer details lie in more
    channels, so that all have the size of the last averages: 3 x 4^levels channels, those of the averages
    first, then details from coarse to fine.

    At scale 1 it turns the space of images and stretches nothing: noise stays white and of unit variance, and
    squared errors are those of pixels. Diffusion is then that of pixels, by a network on a grid that is
    coarser by the stride. Wavelets in diffusion: Phung et al. 2023 (CVPR), whose network is adversarial.
    """

    Config: ClassVar[type[PluginConfig]] = HaarConfig

    def __init__(self, config: HaarConfig) -> None:
        super().__init__(config)
        self.stride = 2**config.levels
        self.channels = 3 * self.stride**2

    def encode(self, image: Tensor) -> Tensor:
        averages, details = image, list[Tensor]()
        for level in range(self.config.levels):
            averages, fine = _split(averages)
            details.insert(0, F.pixel_unshuffle(fine, self.stride >> (level + 1)))
        latent: Tensor = torch.cat([averages, *details], dim=1) * self.config.scale
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        latent = latent / self.config.scale
        image, rest = latent[:, :3], latent[:, 3:]
        for level in reversed(range(self.config.levels)):
            side = self.stride >> (level + 1)
            fine, rest = rest[:, : 9 * side**2], rest[:, 9 * side**2 :]
            image = _join(image, F.pixel_shuffle(fine, side))
        return image

    def clip(self, latent: Tensor) -> Tensor:
        clipped: Tensor = self.encode(self.decode(latent).clamp(-1, 1))
        return clipped


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Averages (B, C, H/2, W/2) and details (B, 3 C, H/2, W/2) of x (B, C, H, W)."""
    a, b, c, d = (x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1))
    details = torch.cat([a - b + c - d, a + b - c - d, a - b - c + d], dim=1)
    return (a + b + c + d) / 2, details / 2


def _join(averages: Tensor, details: Tensor) -> Tensor:
    """What `_split` has split."""
    across, down, both = details.chunk(3, dim=1)
    a = averages + across + down + both
    b = averages - across + down - both
    c = averages + across - down - both
    d = averages - across - down + both
    # pixel_shuffle takes the four pixels of a colour from neighbouring channels
    return F.pixel_shuffle(torch.stack([a, b, c, d], dim=2).flatten(1, 2) / 2, 2)
