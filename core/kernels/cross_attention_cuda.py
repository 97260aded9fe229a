"""The launch of cross_attention.cu: cross-attention to a short context, in folded form, on a GPU."""

from functools import cache

import torch
from torch import Tensor

from . import enabled
from .norm_cuda import BLOCK, THREADS, TYPES
from .norm_twin import layout
from .nvrtc import Launch, load, multiprocessors, read_source, shared_limit

ROWS = (8, 4)  # pixels to a block; fewer where blocks would be too few for the GPU
# More pixels than this in a batch are matrix products for tensor cores, which the kernel does not use.
MOST_PIXELS = 4096


@cache
def kernel_names(dtype: torch.dtype, vector: int) -> tuple[str, ...]:
    """Names of the kernels for a dtype."""
    return tuple(f"short_cross_attention<{TYPES[dtype]}, {vector}, {rows}>" for rows in ROWS)


def vector_width(channels: int, columns: int) -> int:
    """Values to one load."""
    return 1 if channels % 4 or columns % 4 else 4


def shared_bytes(channels: int, columns: int, rows: int) -> int:
    """Shared memory of a block."""
    return 4 * rows * (channels + columns + THREADS * vector_width(channels, columns))


def available(h: Tensor, a: Tensor) -> bool:
    """Whether `forward` can run and should: a GPU, fp32 or bf16, few pixels, a context that fits.

    The first call for a dtype compiles; a failure is said once in the log and is final.
    """
    if not (h.is_cuda and h.dtype in TYPES and enabled() and h.numel() and a.numel()):
        return False
    (b, c, height, width), columns = h.shape, a.shape[2]
    if b * height * width > MOST_PIXELS or shared_bytes(c, columns, ROWS[-1]) > shared_limit(h.device):
        return False
    names = kernel_names(h.dtype, vector_width(c, columns))
    return load(read_source("common.cuh", "cross_attention.cu"), names, h.device) is not None


def forward(
    h: Tensor,
    a: Tensor,
    b: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    heads: int,
    *,
    launch: Launch | None = None,
) -> Tensor:
    """h + softmax(X a + mask) b + bias in one launch. See `cross_attention_op.short_cross_attention`.

    Parameters
    ----------
    launch : callable, optional
        What starts the kernel instead of the GPU.
    """
    batch, c, height, width = h.shape
    pixels, columns = height * width, a.shape[2]
    vector, asked = vector_width(c, columns), layout(h)
    h = _dense(h.contiguous(memory_format=torch.channels_last))
    a, b, bias = (_dense(t.to(h.dtype).contiguous()) for t in (a, b, bias))
    mask = None if mask is None else mask.contiguous()
    rows = ROWS[0]
    if launch is None:
        module = load(
            read_source("common.cuh", "cross_attention.cu"), kernel_names(h.dtype, vector), h.device
        )
        if module is None:
            raise RuntimeError(f"no kernel for a map of {h.dtype} on {h.device}: ask `available` first")
        crowded = batch * pixels >= 2 * rows * multiprocessors(h.device)
        fits = shared_bytes(c, columns, rows) <= shared_limit(h.device)
        rows, launch = rows if crowded and fits else ROWS[1], module
    elif pixels % rows:
        rows = ROWS[1]
    out = torch.empty_like(h, memory_format=torch.channels_last)
    tensors = (h, out, a, b, bias, mask)
    samples = (a.shape[0], b.shape[0], 0 if mask is None else mask.shape[0])
    launch(
        f"short_cross_attention<{TYPES[h.dtype]}, {vector}, {rows}>",
        (-(-pixels // rows), batch, 1),
        BLOCK,
        (*tensors, pixels, c, heads, columns // heads, *samples),
        shared_bytes(c, columns, rows),
    )
    return out.contiguous(memory_format=asked)


def _dense(x: Tensor) -> Tensor:
    """The same where a 16-byte load may begin at its first value."""
    return x.clone() if x.data_ptr() % 16 else x
