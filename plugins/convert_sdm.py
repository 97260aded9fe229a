"""Released SDM weights under our names: the key mapping of ``msdm-kit convert sdm``.

The layout is that of the checkpoints ``modelNNNNNN.pt`` and ``ema_0.9999_NNNNNN.pt`` of Wang et al. 2022
(https://github.com/WeilunWang/semantic-diffusion-model). Everything but the width of an attention head can be
read off names and shapes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import MsdmError

HEAD_CHANNELS = 64
"""Of every released SDM; it leaves no trace in a checkpoint."""

_WIDTHS = ("time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight")
_SPADE = "middle_block.0.in_norm.mlp_shared.0.weight"


@dataclass(frozen=True)
class SdmShape:
    """What a checkpoint says of its network.

    Attributes
    ----------
    channels : int
        Base width.
    multipliers : tuple of float
        Width of each level over `channels`.
    blocks : int
        Residual blocks per level of the encoder.
    attention_strides : tuple of int
        Strides with self-attention; the middle always has it.
    map_channels : int
        Channels of the map that SPADE takes.
    out_channels : int
        3, or 6 where the variance is learned.
    residual_updown : bool
        Resampling in residual blocks, otherwise by a convolution.
    scale_shift : bool
        The time step scales and shifts, otherwise it is added.
    hidden : int
        Width of SPADE's hidden convolution.
    """

    channels: int
    multipliers: tuple[float, ...]
    blocks: int
    attention_strides: tuple[int, ...]
    map_channels: int
    out_channels: int
    residual_updown: bool
    scale_shift: bool
    hidden: int

    @property
    def learned_variance(self) -> bool:
        """Whether half of the output is the variance."""
        return self.out_channels == 6

    def backbone(self, head_channels: int = HEAD_CHANNELS) -> dict[str, Any]:
        """The recipe's `backbone` entry of this network."""
        return {
            "type": "unet",
            "channels": self.channels,
            "multipliers": list(self.multipliers),
            "blocks": self.blocks,
            "attention_strides": list(self.attention_strides),
            "head_channels": head_channels,
            "scale_shift": self.scale_shift,
            "residual_updown": self.residual_updown,
        }


def describe(state: Mapping[str, Tensor]) -> SdmShape:
    """What the names and shapes of a checkpoint say of its network.

    Parameters
    ----------
    state : mapping key -> Tensor
        Under SDM's names.

    Raises
    ------
    MsdmError
        It is not the state dict of an SDM U-Net for RGB images.
    """
    absent = [key for key in (*_WIDTHS, _SPADE) if key not in state]
    if absent:
        raise MsdmError(f"not an SDM checkpoint: no {', '.join(absent)} among its {len(state)} keys")
    channels = _size(state, "time_embed.0.weight", 1)
    rgb, out_channels = _size(state, "input_blocks.0.0.weight", 1), _size(state, "out.2.weight", 0)
    if rgb != 3 or out_channels not in (3, 6):
        raise MsdmError(
            f"SDM has 3 channels in and 3 or 6 out, this checkpoint {rgb} and {out_channels}; it is not RGB"
        )
    stages = 1 + max((int(k.split(".")[1]) for k in state if _numbered(k)), default=0)
    ups = _ups(state)
    per_level = 1 + min(ups, default=stages - 1)
    multipliers, strides = [], []
    for level in range(stages // per_level):
        first = f"input_blocks.{level * per_level + 1}"
        multipliers.append(_ratio(_size(state, f"{first}.0.in_layers.2.weight", 0), channels))
        if f"{first}.1.qkv.weight" in state:
            strides.append(2**level)
    middle = _size(state, "middle_block.0.out_layers.2.weight", 0)
    return SdmShape(
        channels=channels,
        multipliers=tuple(multipliers),
        blocks=per_level - 1,
        attention_strides=tuple(strides),
        map_channels=_size(state, _SPADE, 1),
        out_channels=out_channels,
        residual_updown=ups[min(ups)] if ups else True,
        scale_shift=_size(state, "middle_block.0.emb_layers.1.weight", 0) == 2 * middle,
        hidden=_size(state, _SPADE, 0),
    )


def convert(state: Mapping[str, Tensor], *, injection: int = 0) -> dict[str, Tensor]:
    """A checkpoint's tensors under the names of our Denoiser.

    SPADE's two convolutions, gamma first, become one, and the 1 x 1 convolutions of self-attention become
    linear layers: the numbers are the same.

    Parameters
    ----------
    state : mapping key -> Tensor
        Under SDM's names.
    injection : int
        Position of SPADE, at the middle and the decoder, among the recipe's injectors.

    Returns
    -------
    dict of str -> Tensor
        float32, contiguous; for a Denoiser whose backbone is `SdmShape.backbone`.

    Raises
    ------
    MsdmError
        A key is unknown or missing.
    """
    names = dict(_names(describe(state), f"injections.{injection}.injectors."))
    missing, unknown = [k for k in names if k not in state], [k for k in state if k not in names]
    for what, keys in (("misses", missing), ("has unknown", unknown)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise MsdmError(f"the checkpoint {what} {len(keys)} keys: {', '.join(keys[:3])}{more}")
    parts: dict[str, list[Tensor]] = {}
    for key, ours in names.items():
        tensor = state[key].detach().float()
        # a convolution over a sequence, of width 1, is a linear layer
        parts.setdefault(ours, []).append(tensor.squeeze(-1) if tensor.ndim == 3 else tensor)
    return {k: torch.cat(v).contiguous() for k, v in parts.items()}


_TIME = {"time_embed.0": "backbone.time_embed.0", "time_embed.2": "backbone.time_embed.2"}
_PLAIN = {
    "in_layers.0": "in_norm",
    "in_layers.2": "in_conv",
    "emb_layers.1": "emb",
    "out_layers.0": "out_norm",
    "out_layers.3": "out_conv",
}
_INJECTED = {"in_layers.1": "in_conv", "emb_layers.1": "emb", "out_layers.2": "out_conv"}
_ATTENTION = {"norm": "attention.norm", "qkv": "attention.qkv", "proj_out": "attention.proj"}
# gamma before beta: the order in which our one convolution holds them
_MODULATION = {"mlp_shared.0": "shared", "mlp_gamma": "gamma_beta", "mlp_beta": "gamma_beta"}


def _names(shape: SdmShape, injectors: str) -> Iterator[tuple[str, str]]:
    """Every key that an SDM of this shape has, and ours for it."""
    for layer, ours in _layers(shape, injectors):
        for end in ("weight", "bias"):
            yield f"{layer}.{end}", f"{ours}.{end}"


def _layers(s: SdmShape, injectors: str) -> Iterator[tuple[str, str]]:
    def block(theirs: str, ours: str, injected: bool, skip: bool = False) -> Iterator[tuple[str, str]]:
        for a, b in (_INJECTED if injected else _PLAIN).items():
            yield f"{theirs}.{a}", f"backbone.{ours}.{b}"
        if skip:
            yield f"{theirs}.skip_connection", f"backbone.{ours}.skip"
        for norm in ("in_norm", "out_norm") if injected else ():
            site = f"{ours}.{norm}".replace(".", "_")
            for a, b in _MODULATION.items():
                yield f"{theirs}.{norm}.{a}", f"{injectors}{site}.{b}"

    def attention(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
        for a, b in _ATTENTION.items():
            yield f"{theirs}.{a}", f"backbone.{ours}.{b}"

    yield from _TIME.items()
    yield "input_blocks.0.0", "backbone.input_conv"
    widths = [int(m * s.channels) for m in s.multipliers]
    width, skips, stage = widths[0], [widths[0]], 0
    for level, out in enumerate(widths):
        for _ in range(s.blocks):
            theirs, ours = f"input_blocks.{stage + 1}", f"encoder.{stage}"
            yield from block(f"{theirs}.0", f"{ours}.0", False, skip=width != out)
            if 2**level in s.attention_strides:
                yield from attention(f"{theirs}.1", f"{ours}.1")
            width, stage = out, stage + 1
            skips.append(width)
        if level < len(widths) - 1:
            theirs, ours = f"input_blocks.{stage + 1}.0", f"encoder.{stage}.0"
            if s.residual_updown:
                yield from block(theirs, ours, False)
            else:
                yield f"{theirs}.op", f"backbone.{ours}.conv"
            stage += 1
            skips.append(width)
    yield from block("middle_block.0", "middle.0", True)
    yield from attention("middle_block.1", "middle.1")
    yield from block("middle_block.2", "middle.2", True)
    for stage in range(len(skips)):
        level = len(widths) - 1 - stage // (s.blocks + 1)
        theirs, ours, last = f"output_blocks.{stage}", f"decoder.{stage}", 1
        yield from block(f"{theirs}.0", f"{ours}.0", True, skip=width + skips.pop() != widths[level])
        width = widths[level]
        if 2**level in s.attention_strides:
            yield from attention(f"{theirs}.1", f"{ours}.1")
            last = 2
        if level and stage % (s.blocks + 1) == s.blocks:
            if s.residual_updown:
                yield from block(f"{theirs}.{last}", f"{ours}.{last}", True)
            else:
                yield f"{theirs}.{last}.conv", f"backbone.{ours}.{last}.conv"
    yield "out.0", "backbone.head_norm"
    yield "out.2", "backbone.head_conv"


def _ups(state: Mapping[str, Tensor]) -> dict[int, bool]:
    """Output blocks that end in resampling, and whether it is a residual block's."""
    found = {}
    for key in state:
        if _numbered(key):
            stage, layer, rest = key.removeprefix("output_blocks.").split(".", 2)
            if layer != "0" and rest in ("in_norm.mlp_gamma.weight", "conv.weight"):
                found[int(stage)] = rest != "conv.weight"
    return found


def _numbered(key: str) -> bool:
    words = key.split(".")
    return len(words) > 3 and words[0] == "output_blocks" and words[1].isdecimal()


def _size(state: Mapping[str, Tensor], key: str, dim: int) -> int:
    if key not in state or state[key].ndim < 2:
        raise MsdmError(f"not an SDM checkpoint: no weight {key} among its {len(state)} keys")
    return int(state[key].shape[dim])


def _ratio(width: int, channels: int) -> float:
    # the network takes int(ratio * channels), which must not fall short of the width by rounding
    ratio = width / channels
    return ratio if int(ratio * channels) == width else math.nextafter(ratio, math.inf)
