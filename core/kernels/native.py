"""The normalisation kernel on a CPU: norm.cpp, as `cpp` compiles and loads it."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from .cpp import load, parallel, pointer
from .norm_twin import EPS, Gradients


@cache
def library() -> ctypes.CDLL | None:
    """The kernel, compiled at the first call; None, said once in the log, where that fails."""
    found = load("norm.cpp", "norms run in plain torch on the CPU")
    if found is not None:
        address, integer = ctypes.c_void_p, ctypes.c_int64
        found.msdm_norm_forward.argtypes = [
            *(address, integer, integer, address, integer, ctypes.c_double),
            *[address] * 9,
        ]
        found.msdm_norm_backward.argtypes = [*(address, integer, integer, address, integer), *[address] * 15]
    return found


def available(h: Tensor) -> bool:
    """Whether the kernel takes `h`: fp32 or bf16 and channels_last on a CPU, and the kernel compiles."""
    return (
        h.dtype in (torch.float32, torch.bfloat16)
        and h.numel() > 0
        and h.is_contiguous(memory_format=torch.channels_last)
        and library() is not None
    )


def _plain(t: Tensor | None, *shape: int) -> Tensor | None:
    """As the kernel reads it, which sees no more than an address."""
    if t is None:
        return None
    if t.shape != shape or t.dtype != torch.float32:
        raise ValueError(f"{t.dtype} of shape {tuple(t.shape)} where the kernel reads fp32 of shape {shape}")
    return t.contiguous()


def _map(t: Tensor | None, h: Tensor) -> tuple[Tensor | None, tuple[int, int, int]]:
    """gamma_beta, its samples channels_last; its size, and elements between samples (0: one row for all)."""
    if t is None:
        return None, (1, 1, 0)
    if t.shape[0] not in (1, h.shape[0]) or t.shape[1] != 2 * h.shape[1] or t.dtype != h.dtype:
        raise ValueError(f"{t.dtype} of shape {tuple(t.shape)} modulates no {h.dtype} of {tuple(h.shape)}")
    if t.stride(0) == 0:
        t = t[:1]
    t = t.contiguous(memory_format=torch.channels_last)
    rows, c, height, width = t.shape
    return t, (height, width, c * height * width if rows > 1 else 0)


def _common(h: Tensor, groups: int, patch: tuple[int, int, int], silu: bool) -> tuple[object, ...]:
    """The arguments that both functions begin with."""
    b, c, height, width = h.shape
    shape = (ctypes.c_int64 * 8)(b, c, height, width, groups, *patch)
    return parallel(), torch.get_num_threads(), h.dtype == torch.bfloat16, shape, silu


def _check(status: int) -> None:
    if status:
        raise MemoryError("the normalisation kernel found no memory for its sums")


def forward(
    h: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    gamma_beta: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `norm_twin.forward`, for an `h` that is `available`."""
    lib = library()
    assert lib is not None
    (b, c), (gamma_beta, patch) = h.shape[:2], _map(gamma_beta, h)
    weight, bias, scale, shift = _plain(weight, c), _plain(bias, c), _plain(scale, b, c), _plain(shift, b, c)
    out = torch.empty_like(h, memory_format=torch.channels_last)
    mean = h.new_empty((h.shape[0], groups), dtype=torch.float32)
    rstd = torch.empty_like(mean)
    given = (h, weight, bias, gamma_beta, scale, shift, out, mean, rstd)
    _check(lib.msdm_norm_forward(*_common(h, groups, patch, silu), EPS, *map(pointer, given)))
    return out, mean, rstd


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
) -> Gradients:
    """As `norm_twin.backward`, for an `h` that is `available`."""
    lib = library()
    assert lib is not None
    dmap: Tensor | None = None
    if gamma_beta is not None:
        dmap = torch.empty_like(gamma_beta, memory_format=torch.channels_last)
    (b, c), (gamma_beta, patch) = h.shape[:2], _map(gamma_beta, h)
    weight, bias, scale, shift = _plain(weight, c), _plain(bias, c), _plain(scale, b, c), _plain(shift, b, c)
    if gamma_beta is not None and gamma_beta.shape[2:] != h.shape[2:]:
        raise ValueError("a patch has no gradient: expand it first")
    grad = grad.to(h.dtype).contiguous(memory_format=torch.channels_last)
    dh = torch.empty_like(h, memory_format=torch.channels_last)
    # summed over the batch in fp64
    dweight, dbias = (None if t is None else torch.zeros_like(t, dtype=torch.float64) for t in (weight, bias))
    dscale, dshift = (None if t is None else torch.empty_like(t) for t in (scale, shift))
    given = (grad, h, mean, rstd, weight, bias, gamma_beta, scale, shift)
    found = (dh, dweight, dbias, dmap, dscale, dshift)
    _check(lib.msdm_norm_backward(*_common(h, groups, patch, silu), *map(pointer, (*given, *found))))
    return (
        dh,
        None if dweight is None else dweight.float(),
        None if dbias is None else dbias.float(),
        dmap,
        dscale,
        dshift,
    )
