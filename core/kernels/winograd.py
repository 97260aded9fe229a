"""3 x 3 convolutions on a CPU with 2.25 times fewer multiplications (4 times on a map that is doubled first).

Winograd's minimal filtering F(2 x 2, 3 x 3) (Lavin and Gray 2016, arXiv:1509.09308): winograd.cpp, as `cpp`
compiles and loads it. For inference; weights are transformed once.
"""

import ctypes
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import enabled
from .cpp import load, parallel, pointer
from .verify import agrees

FEWEST_TILES = 16
"""Of 2 x 2 outputs. With fewer, a large layer's time is that of reading its weights: see `MOST_WEIGHTS`."""
MOST_WEIGHTS = 2**21
"""Of a layer for maps of fewer tiles: beyond it transformed weights, 16 for 9, gain too little for it."""


@cache
def library() -> ctypes.CDLL | None:
    """The kernel, compiled at the first call; None, said once in the log, where that fails."""
    found = load("winograd.cpp", "3 x 3 convolutions are oneDNN's on the CPU")
    if found is not None:
        address, integer = ctypes.c_void_p, ctypes.c_int64
        found.msdm_winograd_multiples.argtypes = [integer, address, address]
        found.msdm_winograd_multiples.restype = None
        found.msdm_winograd_bytes.argtypes = [integer] * 4
        found.msdm_winograd_bytes.restype = integer
        found.msdm_winograd_weights.argtypes = [address, *[integer] * 3, *[address] * 3]
        found.msdm_winograd.argtypes = [address, *[integer] * 3, *[address] * 5]
    return found


@cache
def multiples(dtype: torch.dtype) -> tuple[int, int] | None:
    """What input and output channels are multiples of; None where the kernel does not compute in `dtype`."""
    lib = library() if dtype in (torch.float32, torch.bfloat16) else None
    if lib is None:
        return None
    of_input, of_output = ctypes.c_int64(), ctypes.c_int64()
    half = dtype == torch.bfloat16
    lib.msdm_winograd_multiples(half, ctypes.byref(of_input), ctypes.byref(of_output))
    return (of_input.value, of_output.value) if of_input.value else None


def transformed(weight: Tensor, *, up: bool) -> Tensor:
    """Weights (K, C, 3, 3) as the kernel reads them: 16 / 9 of the bytes, or as many where `up`."""
    lib = library()
    assert lib is not None
    (k, c), half = weight.shape[:2], weight.dtype == torch.bfloat16
    plain = weight.detach().float().permute(0, 2, 3, 1).contiguous()
    out = torch.empty(lib.msdm_winograd_bytes(half, up, c, k), dtype=torch.uint8, device=weight.device)
    if out.is_meta:
        return out
    shape = (ctypes.c_int64 * 5)(1, 1, 1, c, k)
    given = (parallel(), torch.get_num_threads(), half, up, shape)
    status = lib.msdm_winograd_weights(*given, plain.data_ptr(), out.data_ptr())
    assert not status
    return out


def convolve(x: Tensor, weights: Tensor, bias: Tensor | None, channels: int, *, up: bool) -> Tensor:
    """A convolution with zeros around the map.

    Parameters
    ----------
    x : Tensor (B, C, H, W) float32 or bfloat16
    weights : Tensor
        `transformed`, for the dtype of `x`.
    bias : Tensor (K,) float32 or None
    channels : int
        K.
    up : bool
        The map is first doubled by nearest neighbour.

    Returns
    -------
    Tensor (B, K, H, W), or (B, K, 2 H, 2 W) where `up`
        channels_last.
    """
    lib = library()
    assert lib is not None
    x = x.contiguous(memory_format=torch.channels_last)
    b, c, height, width = x.shape
    scale = 2 if up else 1
    out = torch.empty(
        (b, channels, scale * height, scale * width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    if out.is_meta:
        return out
    shape = (ctypes.c_int64 * 5)(b, height, width, c, channels)
    given = (parallel(), torch.get_num_threads(), x.dtype == torch.bfloat16, up, shape)
    if lib.msdm_winograd(*given, *map(pointer, (x, weights, bias, out))):
        raise MemoryError("a convolution found no memory for what it transforms")
    return out


@cache
def available(dtype: torch.dtype) -> bool:
    """Whether the kernel computes in a dtype here, which small convolutions show; else the log says so."""
    if not enabled() or (of := multiples(dtype)) is None:
        return False
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3 * of[0], 5, 7, generator=g).to(dtype)
    weight = (torch.randn(3 * of[1], 3 * of[0], 3, 3, generator=g) / 10).to(dtype)
    bias = torch.randn(3 * of[1], generator=g)

    def kernel() -> list[Tensor]:
        return [convolve(x, transformed(weight, up=up), bias, len(weight), up=up) for up in (False, True)]

    def twin() -> list[Tensor]:
        maps = (x.float(), doubled(x.float()))
        return [F.conv2d(m, weight.float(), bias, padding=1) for m in maps]

    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        return agrees("Winograd's convolution", dtype, kernel, twin)


def doubled(x: Tensor) -> Tensor:
    """A map (B, C, H, W) at twice the size, by nearest neighbour."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def suits(conv: nn.Conv2d) -> bool:
    """Whether the kernel computes a layer: 3 x 3, all strides 1, zeros around, channels in whole vectors."""
    plain = (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    if not (plain and conv.groups == 1 and conv.padding_mode == "zeros" and available(conv.weight.dtype)):
        return False
    of = multiples(conv.weight.dtype)
    return of is not None and conv.in_channels % of[0] == 0 and conv.out_channels % of[1] == 0


class WinogradConv2d(nn.Module):
    """`nn.Conv2d` for inference on a CPU: the same numbers up to rounding.

    Weights must not change after the first call. They are kept in the kernel's order too, from the first map
    on that pays for it.

    Parameters
    ----------
    conv : nn.Conv2d
        One that `suits`. Its parameters are shared.
    otherwise : nn.Module, optional
        What computes the convolution where this does not pay, or with gradients; `conv` by default.
    """

    def __init__(self, conv: nn.Conv2d, otherwise: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.otherwise = conv if otherwise is None else otherwise
        self._bias: Tensor | None = None
        self._weights: dict[bool, Tensor] = {}

    def forward(self, x: Tensor, *, up: bool = False) -> Tensor:
        """(B, K, H, W) of x (B, C, H, W); (B, K, 2 H, 2 W) where `up`: nearest neighbour doubles x first."""
        conv, dtype = self.conv, self.conv.weight.dtype
        wanted = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if torch.is_grad_enabled() or dtype != wanted or not self._pays(x, up):
            out: Tensor = self.otherwise(doubled(x) if up else x)
            return out
        if up not in self._weights:
            self._weights[up] = transformed(conv.weight, up=up)
            self._bias = None if conv.bias is None else conv.bias.detach().float()
        return convolve(x.to(dtype), self._weights[up], self._bias, conv.out_channels, up=up)

    def _pays(self, x: Tensor, up: bool) -> bool:
        """By measurement (`benchmarks.convolution`), always but where weights outweigh the map."""
        b, _, height, width = x.shape
        tiles = b * height * width if up else b * -(-height // 2) * -(-width // 2)
        return tiles >= FEWEST_TILES or (tiles > 0 and self.conv.weight.numel() <= MOST_WEIGHTS)
