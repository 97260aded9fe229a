"""A compact U-Net, trained from scratch."""

from math import lcm
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from ...core.conditioning import PluginConfig
from .flow_segmenter import FlowConfig, FlowSegmenter
from .flows import need_version
from .network import SmallUNet

LARGEST_TILE = 1024
_PADDING = 16
"""Pixels that Cellpose pads an image with, and what it rounds sizes up to."""


class ScratchSmallConfig(FlowConfig):
    """Settings of `scratch-small`; those of training are in `FlowConfig`."""

    channels: tuple[int, ...] = Field(
        (32, 64, 128),
        min_length=2,
        max_length=6,
        description="Of each level, the finest first; each level halves height and width.",
    )
    stride: Literal[1, 2] = Field(
        2,
        description="2 computes on blocks of 2 x 2 pixels, at about a third of the cost.",
    )
    crop: int = Field(128, ge=32, description="Height and width of training crops, in pixels.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        multiple = self.stride * 2 ** (len(self.channels) - 1)
        if self.crop % multiple:
            raise ValueError(
                f"crop {self.crop} is no multiple of {multiple}, as {len(self.channels)} levels at stride "
                f"{self.stride} need"
            )
        if min(self.channels) < 1:
            raise ValueError("channels must be 1 or more at each level")
        return self


class ScratchSmall(FlowSegmenter):
    """`SmallUNet` in the loop of Cellpose 4, which itself trains no network from scratch."""

    Config: ClassVar[type[PluginConfig]] = ScratchSmallConfig
    name = "scratch-small"

    def __init__(self, config: Any, kind: str, device: torch.device) -> None:
        need_version(4, self.name, "cpnet")
        super().__init__(config, kind, device)

    def architecture(self) -> nn.Module:
        return SmallUNet(self.config.channels, self.config.stride)

    @property
    def crop(self) -> int:
        return int(self.config.crop)

    def tile(self, height: int, width: int) -> int:
        step = lcm(_PADDING, self.config.stride * 2 ** (len(self.config.channels) - 1))
        # one tile where that is possible: seams cost time and instances
        whole = -(-(max(height, width) + _PADDING) // step) * step
        return int(min(whole, -(-LARGEST_TILE // step) * step))
