"""Cellpose 3.1's own network, trained from scratch."""

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import nn

from ...core.conditioning import PluginConfig
from ...core.sample import Image
from .flow_segmenter import FlowConfig, FlowSegmenter
from .flows import Maps, cellpose, need_version
from .network import STYLE

CROP = 224
"""Of Cellpose 3's training and of its tiles."""
_GREY = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709


class CPNetConfig(FlowConfig):
    """Settings of `cpnet`; those of training are in `FlowConfig`.

    The coarsest level is as long as Cellpose's style vector.
    """

    epochs: int = Field(
        500,
        gt=10,
        description="Passes over the fields; the learning rate grows over the first 10.",
    )
    batch: int = Field(8, ge=1, description="Crops per step of AdamW.")
    learning_rate: float = Field(5e-3, gt=0, description="Of AdamW.")
    weight_decay: float = Field(1e-5, ge=0, description="Of AdamW.")
    channels: tuple[int, ...] = Field(
        (32, 64, 128),
        min_length=3,
        max_length=3,
        description="Of the three finer levels, the finest first; the coarsest has 256.",
    )


class CPNet(FlowSegmenter):
    """CPnet sees the inverted grey image and an empty channel: Cellpose 3's channels ``[0, 0]``, where
    instances are bright.

    Fields are not rescaled to a common diameter.
    """

    Config: ClassVar[type[PluginConfig]] = CPNetConfig
    name = "cpnet"

    def __init__(self, config: Any, kind: str, device: torch.device) -> None:
        need_version(3, self.name, "scratch-small")
        super().__init__(config, kind, device)

    def architecture(self) -> nn.Module:
        network: nn.Module = cellpose("resnet_torch").CPnet([2, *self.config.channels, STYLE], nout=3, sz=3)
        return network

    @property
    def crop(self) -> int:
        return CROP

    def tile(self, height: int, width: int) -> int:
        return CROP

    def inputs(self, image: Image) -> Maps:
        grey = -np.tensordot(_GREY, image, 1)
        both = np.stack((grey, np.zeros_like(grey)), axis=-1).astype(np.float32)
        scaled: Maps = cellpose("transforms").normalize_img(both)
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))
