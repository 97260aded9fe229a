"""The launches of norm.cu and norm_backward.cu: GroupNorm with modulation, scale-shift and SiLU on a GPU.

Definitions, shapes and dtypes: norm.cu, and `core.norm`. The tests run the same launches on a CPU emulation.
"""

import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor

from . import enabled, norm_twin
from .norm_twin import EPS, Gradients, layout
from .nvrtc import Launch, Module, Shape, load, multiprocessors, read_source
from .verify import agrees

THREADS = 256
BLOCK: Shape = (THREADS, 1, 1)
TYPES = {torch.float32: "float", torch.bfloat16: "bf16"}
# Blocks per multiprocessor that a launch aims at: several waves where a block's start is cheap, fewer where
# every block writes partial sums that the next launch reads.
BLOCKS_STATISTICS, BLOCKS_APPLY, BLOCKS_SUMS = 8, 16, 6


@cache
def forward_kernels(dtype: torch.dtype, vector: int) -> tuple[str, ...]:
    """Names of the kernels of a forward pass."""
    of = f"{TYPES[dtype]}, {vector}"
    return (f"norm_statistics<{of}>", "norm_finalise", *(f"norm_apply<{of}, {m}>" for m in range(3)))


@cache
def backward_kernels(dtype: torch.dtype, vector: int) -> tuple[str, ...]:
    """Names of the kernels of a backward pass."""
    of = f"{TYPES[dtype]}, {vector}"
    passes = ("norm_backward_sums", "norm_backward_apply")
    return (*(f"{name}<{of}, {m}>" for name in passes for m in range(2)), "norm_backward_merge")


def vector_width(channels: int, dtype: torch.dtype, backward: bool = False) -> int:
    """Channels to one load: 16 bytes, or four values in a backward pass, whose sums take the registers."""
    widest = 4 if backward else 16 // dtype.itemsize
    return next((v for v in (widest, 4) if channels % v == 0), 1)


def spans(pixels: int, channels: int, vector: int, batch: int, blocks: int) -> tuple[int, int]:
    """(pixels per block, blocks per sample): about `blocks` in all, and four pixels to a thread at least."""
    rows = THREADS // min(channels // vector, THREADS)
    span = max(-(-pixels * batch // max(blocks, 1)), 4 * rows)
    span = -(-span // rows) * rows
    return span, -(-pixels // span)


def _module(channels: int, dtype: torch.dtype, device: torch.device, backward: bool) -> Module | None:
    vector = vector_width(channels, dtype, backward)
    names = (backward_kernels if backward else forward_kernels)(dtype, vector)
    return load(read_source("common.cuh", "norm_backward.cu" if backward else "norm.cu"), names, device)


def available(h: Tensor) -> bool:
    """Whether `forward` and `backward` can run for this map: a GPU, fp32 or bf16, and kernels that compile.

    The first call for a dtype compiles, the first one for a width compares with the twin on a small map; a
    failure is said once in the log and is final.
    """
    if not (h.is_cuda and h.dtype in TYPES and enabled() and h.numel() and h.shape[0] < 2**14):
        return False
    if any(_module(h.shape[1], h.dtype, h.device, backward) is None for backward in (False, True)):
        return False
    key = (h.shape[1], h.dtype, h.device)
    if key not in _VERIFIED and not torch.cuda.is_current_stream_capturing():
        _VERIFIED[key] = _verify(*key)
    return _VERIFIED.get(key, False)


_VERIFIED: dict[tuple[int, torch.dtype, torch.device], bool] = {}


def _verify(channels: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Both passes with every term against the twin, on maps that no block fills."""
    make = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=make).to(device)

    def maps(width: int) -> Tensor:
        return draw(2, width, 7, 9).to(dtype).contiguous(memory_format=torch.channels_last)

    groups = next(g for g in (32, 8, 4, 3, 2, 1) if channels % g == 0)
    h, gamma_beta, grad = maps(channels) * 2 + 3, maps(2 * channels), maps(channels)
    weight, bias, scale, shift = draw(channels), draw(channels), draw(2, channels), draw(2, channels)
    terms = (weight, bias, gamma_beta, scale, shift, True)

    def run(of: Any) -> list[Tensor | None]:
        out, mean, rstd = of.forward(h, groups, *terms)
        return [out, mean, rstd, *of.backward(grad, h, mean, rstd, groups, *terms)]

    here = sys.modules[__name__]
    return agrees("the CUDA kernel of normalisation", dtype, lambda: run(here), lambda: run(norm_twin))


def _launcher(h: Tensor, backward: bool, launch: Launch | None) -> tuple[Launch, int]:
    """What starts the kernels, and the multiprocessors they have."""
    if launch is not None:
        return launch, 1
    module = _module(h.shape[1], h.dtype, h.device, backward)
    if module is None:
        raise RuntimeError(f"no kernel for a map of {h.dtype} on {h.device}: ask `available` first")
    return module, multiprocessors(h.device)


def _lay(x: Tensor) -> Tensor:
    """The map as (B, H W, C) in memory, where a 16-byte load may begin."""
    x = x.contiguous(memory_format=torch.channels_last)
    return x.clone(memory_format=torch.channels_last) if x.data_ptr() % 16 else x


def _row(x: Tensor | None) -> tuple[Tensor | None, int]:
    """fp32 (B, C) whose channels lie side by side, and the distance of its rows."""
    if x is None:
        return None, 0
    x = x.float()
    x = x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()
    return x, x.stride(0)


def _vector(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().contiguous()


def forward(
    h: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    gamma_beta: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
    *,
    launch: Launch | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """act(((w GN(h) + b)(1 + gamma) + beta)(1 + scale) + shift), act = SiLU or nothing, in three launches.

    Parameters
    ----------
    h : Tensor (B, C, H, W)
        fp32 or bf16; used as it is where channels_last.
    groups : int
        Divides C.
    weight, bias : Tensor (C,) or None
    gamma_beta : Tensor (B or 1, 2 C, h', w') or None
        gamma, then beta, in the dtype of `h`; a map of H x W or a patch (`norm_twin.expand_patch`).
    scale, shift : Tensor (B, C) or None
    silu : bool
    launch : callable, optional
        What starts a kernel instead of the GPU.

    Returns
    -------
    out : Tensor (B, C, H, W)
        In the dtype and memory format of `h`.
    mean, rstd : Tensor (B, groups) fp32
    """
    start, processors = _launcher(h, False, launch)
    h, asked = _lay(h), layout(h)
    b, c, height, width = h.shape
    pixels, vector = height * width, vector_width(c, h.dtype)
    of = f"{TYPES[h.dtype]}, {vector}"
    out = torch.empty_like(h, memory_format=torch.channels_last)
    mean, rstd = (h.new_empty(b, groups, dtype=torch.float32) for _ in range(2))

    span, chunks = spans(pixels, c, vector, b, processors * BLOCKS_STATISTICS)
    partial = h.new_empty(b, groups, chunks, 2, dtype=torch.float32)
    shared = 4 * (2 * c + 2 * THREADS * vector)
    start(f"norm_statistics<{of}>", (chunks, b, 1), BLOCK, (h, partial, pixels, c, groups, span), shared)
    merge = (partial, mean, rstd, pixels, c // groups, chunks, span, EPS)
    start("norm_finalise", (groups, b, 1), (32, 1, 1), merge, 0)

    span, chunks = spans(pixels, c, vector, b, processors * BLOCKS_APPLY)
    (scale, scale_stride), (shift, shift_stride) = _row(scale), _row(shift)
    gamma_beta = None if gamma_beta is None else _lay(gamma_beta)
    patch = (0, 0, 0) if gamma_beta is None else (*gamma_beta.shape[2:], gamma_beta.shape[0])
    kind = 0 if gamma_beta is None else 1 if patch[:2] == (height, width) else 2
    tensors = (h, out, mean, rstd, _vector(weight), _vector(bias), gamma_beta, scale, shift)
    numbers = (height, width, c, groups, span, *patch, scale_stride, shift_stride, int(silu))
    start(f"norm_apply<{of}, {kind}>", (chunks, b, 1), BLOCK, (*tensors, *numbers), 0)
    return out.contiguous(memory_format=asked), mean, rstd


def backward(
    grad: Tensor,
    h: Tensor,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    gamma_beta: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
    *,
    launch: Launch | None = None,
) -> Gradients:
    """Gradients of `forward` by h, weight, bias, gamma_beta, scale, shift; None where there is no input.

    A gradient has the dtype of its input; sums are fp32. What lies between is recomputed.

    Raises
    ------
    ValueError
        gamma_beta is a patch: no gradient is defined for one here.
    """
    start, processors = _launcher(h, True, launch)
    asked, h, grad = layout(h), _lay(h), _lay(grad.to(h.dtype))
    b, c, height, width = h.shape
    if gamma_beta is not None and gamma_beta.shape[2:] != h.shape[2:]:
        raise ValueError(f"gamma_beta {tuple(gamma_beta.shape)} is no map of the size of h {tuple(h.shape)}")
    pixels, vector = height * width, vector_width(c, h.dtype, backward=True)
    kind = int(gamma_beta is not None)
    of = f"{TYPES[h.dtype]}, {vector}, {kind}"
    (scale_, scale_stride), (shift_, shift_stride) = _row(scale), _row(shift)
    modulation = None if gamma_beta is None else _lay(gamma_beta)
    terms = (mean, rstd, _vector(weight), _vector(bias), modulation, scale_, shift_)
    last = (0 if modulation is None else modulation.shape[0], scale_stride, shift_stride, int(silu))

    span, chunks = spans(pixels, c, vector, b, processors * BLOCKS_SUMS)
    partial = h.new_empty(b, chunks, 4, c, dtype=torch.float32)
    args = (grad, h, partial, *terms, pixels, c, groups, span, *last)
    start(f"norm_backward_sums<{of}>", (chunks, b, 1), BLOCK, args, 4 * 4 * THREADS * vector)
    sums = h.new_empty(4, b, c, dtype=torch.float32)
    merge = (partial, sums, b, c, chunks)
    start("norm_backward_merge", (-(-c // 32), 4 * b, 1), BLOCK, merge, 4 * THREADS)

    span, chunks = spans(pixels, c, vector, b, processors * BLOCKS_APPLY)
    dh = torch.empty_like(h, memory_format=torch.channels_last)
    dmap = None
    if gamma_beta is not None:
        dmap = h.new_empty(b, height, width, 2 * c).permute(0, 3, 1, 2)
    start(
        f"norm_backward_apply<{of}>",
        (chunks, b, 1),
        BLOCK,
        (grad, h, dh, dmap, sums, *terms, pixels, c, groups, span, *last),
        4 * 2 * groups,
    )

    dz, dz_normal, dv, dv_u = sums.unbind()
    if dmap is not None and modulation is not None:
        dmap = dmap.sum(0, keepdim=True) if modulation.shape[0] < b else dmap
        dmap = dmap.contiguous(memory_format=asked)
    return (
        dh.contiguous(memory_format=asked),
        None if weight is None else dz_normal.sum(0).to(weight.dtype),
        None if bias is None else dz.sum(0).to(bias.dtype),
        dmap,
        # copies: what an op returns shares no memory
        None if scale is None else dv_u.to(scale.dtype, copy=True),
        None if shift is None else dv.to(shift.dtype, copy=True),
    )
