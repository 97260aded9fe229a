"""A compact U-Net of the form that Cellpose's training loop and tiles take."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

STYLE = 256
"""Length of the style vector that `cellpose.core.run_net` reads beside the maps; it is all zeros here."""


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [
            nn.Conv2d(width, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs, momentum=0.05),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class SmallUNet(nn.Module):
    """Flows and cell probability of an image (Stringer et al., Nature Methods 18:100, 2021, section "Model").

    Parameters
    ----------
    channels : sequence of int
        Of each level, the finest first; each level halves height and width.
    stride : int
        The finest level sees blocks of ``stride x stride`` pixels as channels (space to depth), and the maps
        are put together from such blocks: nothing is lost, and each level is of a quarter of the pixels at 2.

    Attributes
    ----------
    multiple : int
        Height and width of an input are multiples of it.
    device, dtype, backbone, diam_labels, diam_mean
        What `cellpose.train.train_seg` and `cellpose.core.run_net` ask of a network.
    """

    def __init__(self, channels: Sequence[int], stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.multiple = stride * 2 ** (len(channels) - 1)
        self.dtype = torch.float32
        self.backbone = "small_unet"
        self.register_buffer("diam_labels", torch.tensor([30.0]))
        self.register_buffer("diam_mean", torch.tensor([30.0]))
        widths = [3 * stride**2, *channels]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip(widths, channels, strict=False))
        self.up = nn.ModuleList(
            _block(a + b, b) for a, b in zip(reversed(channels[1:]), reversed(channels[:-1]), strict=True)
        )
        self.head = nn.Conv2d(channels[0], 3 * stride**2, 1)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of images.

        Parameters
        ----------
        images : Tensor (N, 3, H, W) float32
            Each channel scaled so that its 1st and 99th percentile are 0 and 1.

        Returns
        -------
        maps : Tensor (N, 3, H, W)
            Flow down and flow right, five times their length, and the logit of being in an instance.
        style : Tensor (N, 256)
            Zeros.
        """
        x = functional.pixel_unshuffle(images, self.stride)
        skips = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else functional.max_pool2d(x, 2))
            skips.append(x)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = block(torch.cat((functional.interpolate(x, scale_factor=2.0), skip), 1))
        maps = functional.pixel_shuffle(self.head(x), self.stride)
        return maps, maps.new_zeros(len(maps), STYLE)
