"""Convolutions of small maps on a CPU, their weights laid out once in the order that oneDNN computes in.

torch lays the weights out at every call. For a map of 8 x 8 pixels that costs more than the convolution does.
"""

from functools import cache

import torch
from torch import Tensor, nn

from . import enabled
from .verify import agrees

MOST_PIXELS = 1024
"""Of the output: beyond it, laying weights out costs less than a twentieth of the convolution."""
FEWEST_WEIGHTS = 2**17
"""Of a convolution: below it, there is little to lay out."""


class PackedConv2d(nn.Module):
    """`nn.Conv2d` for inference on a CPU: the same numbers up to rounding.

    Weights must not change after the first call. They are kept in both orders, the packed ones for the last
    size of input.

    Parameters
    ----------
    conv : nn.Conv2d
        Its parameters are shared.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self._size: torch.Size | None = None
        self._packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        conv, pixels = self.conv, x.shape[0] * x.shape[2] * x.shape[3]
        dtype = conv.weight.dtype
        wanted = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        plain = torch.is_grad_enabled() or dtype != wanted
        if plain or pixels > MOST_PIXELS * conv.stride[0] * conv.stride[1]:
            out: Tensor = conv(x)
            return out
        x = x.to(dtype)
        if self._packed is None or self._size != x.shape:
            self._packed, self._size = _pack(conv, x), x.shape
        return _run(conv, x, self._packed)


def _pack(conv: nn.Conv2d, x: Tensor) -> Tensor:
    if x.is_meta:
        return torch.empty_like(conv.weight)
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
        conv.weight.detach(), conv.padding, conv.stride, conv.dilation, conv.groups, list(x.shape)
    )
    return packed


def _run(conv: nn.Conv2d, x: Tensor, packed: Tensor) -> Tensor:
    if x.is_meta:
        shapes: Tensor = conv(x)
        return shapes
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, packed, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups, "none", [], ""
    )
    return out


@cache
def available(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs weights of a dtype here, which a small convolution shows; else the log says so."""
    operators = ("_reorder_convolution_weight", "_convolution_pointwise")
    if not (enabled() and all(hasattr(torch.ops.mkldnn, o) for o in operators)):
        return False
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)
        conv = nn.Conv2d(32, 48, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
        x = torch.randn(1, 32, 6, 5).to(dtype).to(memory_format=torch.channels_last)
        return agrees(
            "oneDNN's packed convolution", dtype, lambda: [_run(conv, x, _pack(conv, x))], lambda: [conv(x)]
        )


def packs(conv: nn.Conv2d) -> bool:
    """Whether packing a layer's weights pays on small maps: they are many, and oneDNN packs them here."""
    return (
        conv.weight.numel() >= FEWEST_WEIGHTS
        and conv.weight.dtype in (torch.float32, torch.bfloat16)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and available(conv.weight.dtype)
    )
