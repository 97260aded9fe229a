"""The U-Net of SDM (Wang et al. 2022): that of ADM (Dhariwal and Nichol 2021) with open norm sites."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..core.attention import zero
from ..core.backbone import Backbone, Features, Inject
from ..core.conditioning import PluginConfig
from ..core.errors import MsdmError
from ..core.injection import Site
from ..core.norm import SiteNorm
from ..core.precision import full_precision
from .unet_blocks import Attention, ResidualBlock, StridedConv, timestep_embedding


class UNetConfig(PluginConfig):
    """Settings of the U-Net; the defaults are SDM's at 256 pixels."""

    channels: int = Field(256, ge=2, le=2**16, multiple_of=2, description="Base width, even.")
    multipliers: tuple[Annotated[float, Field(gt=0, le=256)], ...] = Field(
        (1, 1, 2, 2, 4, 4), min_length=1, max_length=16, description="Width per level."
    )
    blocks: int = Field(2, ge=1, le=64, description="Residual blocks per level.")
    attention_strides: tuple[int, ...] = Field((8, 16, 32), description="Strides with self-attention.")
    middle_attention: bool = Field(True, description="Self-attention in the middle.")
    head_channels: int = Field(64, ge=1, description="Width of an attention head.")
    groups: int = Field(32, ge=1, description="Groups of every normalisation.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Share of features dropped in each block.")
    scale_shift: bool = Field(True, description="The time step scales and shifts; otherwise it is added.")
    residual_updown: bool = Field(True, description="Resample in residual blocks, otherwise by a conv.")

    @model_validator(mode="after")
    def _has_the_strides(self) -> "UNetConfig":
        legal = [2**level for level in range(len(self.multipliers))]
        other = [stride for stride in self.attention_strides if stride not in legal]
        if other:
            raise ValueError(
                f"attention_strides: {other[0]} is none of this network's, which are "
                f"{', '.join(map(str, legal))}; take of these, or none: []"
            )
        return self


class UNet(Backbone):
    """The U-Net of SDM.

    Regions: ``embedding``, ``input``, ``encoder``, ``middle`` (norms), ``bottleneck`` (the residual site
    after the middle's attention), ``decoder``, ``head``. SDM injects by SPADE at ``middle`` and ``decoder``.

    Raises
    ------
    MsdmError
        A width is not a multiple of `groups`, or one with self-attention not of `head_channels`.
    """

    Config: ClassVar[type[PluginConfig]] = UNetConfig

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__(config, in_channels, out_channels)
        c = config
        widths = [int(m * c.channels) for m in c.multipliers]
        for w in widths:
            if w < 1 or w % c.groups:
                raise MsdmError(
                    f"width {w} (channels {c.channels} x a multiplier) is not a multiple of groups "
                    f"{c.groups}; change channels, multipliers or groups"
                )
        self.multiple = 2 ** (len(widths) - 1)
        self.emb_channels = 4 * c.channels
        self.time_embed = nn.Sequential(
            nn.Linear(c.channels, self.emb_channels),
            nn.SiLU(),
            nn.Linear(self.emb_channels, self.emb_channels),
        )
        self.input_conv = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.encoder, skip_widths = self._build_encoder(widths)
        stride, width = self.multiple, widths[-1]
        self.middle = nn.ModuleList(
            [
                self._block("middle.0", "middle", width, width, stride),
                self._attention("middle.1", "bottleneck", width, stride, c.middle_attention),
                self._block("middle.2", "middle", width, width, stride),
            ]
        )
        self.decoder = self._build_decoder(widths, skip_widths)
        self.head_norm: SiteNorm | None = SiteNorm(widths[0], c.groups)
        self.head_conv = zero(nn.Conv2d(widths[0], out_channels, 3, padding=1))
        self.sites = (
            Site("embedding", "embedding", "embedding", self.emb_channels),
            Site("input", "input", "input", widths[0]),
            *(site for layer in self._layers() for site in layer.sites),
            Site("head.norm", "head", "norm", widths[0], 1, c.groups),
        )

    def _block(
        self, name: str, region: str, c_in: int, c_out: int, stride: int, **kwargs: Any
    ) -> ResidualBlock:
        c = self.config
        return ResidualBlock(
            name,
            region,
            c_in,
            c_out,
            self.emb_channels,
            stride=stride,
            groups=c.groups,
            dropout=c.dropout,
            scale_shift=c.scale_shift,
            **kwargs,
        )

    def _attention(self, name: str, region: str, width: int, stride: int, on: bool = True) -> Attention:
        c = self.config
        if on and width % c.head_channels:
            raise MsdmError(
                f"width {width} of the attention at stride {stride} is not a multiple of "
                f"head_channels {c.head_channels}; change channels, multipliers or head_channels"
            )
        return Attention(name, region, width, c.head_channels if on else None, stride=stride, groups=c.groups)

    def _resample(self, name: str, region: str, width: int, stride: int, how: Any) -> nn.Module:
        if self.config.residual_updown:
            return self._block(name, region, width, width, stride, how=how)
        return StridedConv(width, how)

    def _build_encoder(self, widths: list[int]) -> tuple[nn.ModuleList, list[int]]:
        """Stages of layers; and the width of each skip, the input convolution's first."""
        stages, width, stride = nn.ModuleList(), widths[0], 1
        skips = [width]
        for level, out in enumerate(widths):
            for _ in range(self.config.blocks):
                name = f"encoder.{len(stages)}"
                layers: list[nn.Module] = [self._block(f"{name}.0", "encoder", width, out, stride)]
                if stride in self.config.attention_strides:
                    layers.append(self._attention(f"{name}.1", "encoder", out, stride))
                stages.append(nn.ModuleList(layers))
                width = out
                skips.append(width)
            if level < len(widths) - 1:
                down = self._resample(f"encoder.{len(stages)}.0", "encoder", width, stride, "down")
                stages.append(nn.ModuleList([down]))
                skips.append(width)
                stride *= 2
        return stages, skips

    def _build_decoder(self, widths: list[int], skips: list[int]) -> nn.ModuleList:
        stages, width, stride = nn.ModuleList(), widths[-1], self.multiple
        remaining = list(skips)
        for level, out in reversed(list(enumerate(widths))):
            for i in range(self.config.blocks + 1):
                name = f"decoder.{len(stages)}"
                layers: list[nn.Module] = [
                    self._block(f"{name}.0", "decoder", width + remaining.pop(), out, stride)
                ]
                if stride in self.config.attention_strides:
                    layers.append(self._attention(f"{name}.1", "decoder", out, stride))
                if level and i == self.config.blocks:
                    layers.append(self._resample(f"{name}.{len(layers)}", "decoder", out, stride, "up"))
                    stride //= 2
                stages.append(nn.ModuleList(layers))
                width = out
        return stages

    def _layers(self) -> Iterable[Any]:
        for stage in self.encoder:
            yield from stage  # type: ignore[misc]
        yield from self.middle
        for stage in self.decoder:
            yield from stage  # type: ignore[misc]

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return tuple(self._layers())

    def release(self, sites: Iterable[str]) -> None:
        taken = set(sites)
        for layer in self._layers():
            for site, attribute in zip(layer.sites, ("in_norm", "out_norm"), strict=False):
                if site.kind == "norm" and site.name in taken:
                    setattr(layer, attribute, None)
        if "head.norm" in taken:
            self.head_norm = None

    def _run(self, layer: nn.Module, h: Tensor, emb: Tensor, inject: Inject) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            out: Tensor = checkpoint(layer, h, emb, inject, use_reentrant=False)
        else:
            out = layer(h, emb, inject)
        return out

    def encode(self, x: Tensor, t: Tensor, inject: Inject) -> Features:
        with full_precision(x.device):
            emb = self.time_embed(timestep_embedding(t, self.config.channels))
        emb = inject("embedding", emb)
        h = inject("input", self.input_conv(x))
        skips = [h]
        for stage in self.encoder:
            for layer in stage:  # type: ignore[attr-defined]
                h = self._run(layer, h, emb, inject)
            skips.append(h)
        return Features(h, tuple(skips), emb)

    def decode(self, features: Features, inject: Inject) -> Tensor:
        h, emb, skips = features.h, features.emb, list(features.skips)
        for layer in self.middle:
            h = self._run(layer, h, emb, inject)
        for stage in self.decoder:
            h = torch.cat([h, skips.pop()], dim=1)
            for layer in stage:  # type: ignore[attr-defined]
                h = self._run(layer, h, emb, inject)
        h = self.head_norm(h) if self.head_norm is not None else inject("head.norm", h)
        out: Tensor = self.head_conv(h)
        return out
