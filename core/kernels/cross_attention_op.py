"""The custom op of cross-attention to a short context in folded form: twin, kernel, shapes, gradients.

Queries, keys and values of head n: X Wq_n, T Wk_n, T Wv_n, and the output projection's rows Wo_n. For few
tokens S it is cheaper to fold the two sides that do not depend on the image into

    a = [Wq_n (T Wk_n)' / sqrt(D)]_n  (C, N S),  b = [(T Wv_n) Wo_n]_n  (N S, C)

so that h + MultiHead(h, T) = h + softmax_S(X a + mask) b + bias, exact but for rounding.
"""

from typing import Any

import torch
from torch import Tensor

from . import cross_attention_cuda
from .norm_twin import layout


def _weights(x: Tensor, a: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """softmax_S(x a + mask) per head: (B, L, N S) in fp32 (fp64 for fp64)."""
    scores = (x @ a).to(torch.promote_types(x.dtype, torch.float32))
    scores = scores.view(*scores.shape[:2], heads, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
    return _softmax(scores).flatten(2)


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dimension."""
    if scores.is_cuda or scores.shape[-1] >= 16:
        return scores.softmax(dim=-1)
    # on the CPU torch's own is scalar below one AVX-512 vector of fp32, and slower than three passes
    e = (scores - scores.amax(dim=-1, keepdim=True).detach()).exp()
    return e / e.sum(dim=-1, keepdim=True)


def _pixels(h: Tensor) -> Tensor:
    """(B, C, H, W) as (B, L, C): a view of a channels_last map."""
    return h.flatten(2).transpose(1, 2)


def twin(h: Tensor, a: Tensor, b: Tensor, bias: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """`short_cross_attention` in plain torch: its definition."""
    a, b, bias = a.to(h.dtype), b.to(h.dtype), bias.to(h.dtype)
    x = _pixels(h)
    p = _weights(x, a, mask, heads).to(b.dtype)
    attended = torch.baddbmm(bias, p, b.expand(len(p), -1, -1))
    out = (x + attended).transpose(1, 2).reshape(h.shape)
    return out.contiguous(memory_format=layout(h))


def _check(h: Tensor, a: Tensor, b: Tensor, bias: Tensor, mask: Tensor | None, heads: int) -> None:
    """Shapes that the kernel could not tell from legal ones."""
    batch, c = h.shape[:2]
    columns = a.shape[-1]
    tokens = columns // heads
    legal = (1, batch)
    fits = a.shape == (a.shape[0], c, columns) and b.shape == (b.shape[0], columns, c) and bias.shape == (c,)
    fits = fits and a.shape[0] in legal and b.shape[0] in legal and columns == heads * tokens
    fits = fits and (mask is None or (mask.dtype == torch.bool and mask.shape[0] in legal))
    if not fits or (mask is not None and mask.shape[1:] != (tokens,)):
        shapes = [tuple(t.shape) for t in (h, a, b, bias)]
        raise ValueError(
            f"h, a, b, bias of {shapes} and {heads} heads: not (B, C, H, W), (., C, NS), (., NS, C), (C)"
        )


def short_cross_attention(
    h: Tensor, a: Tensor, b: Tensor, bias: Tensor, mask: Tensor | None, heads: int
) -> Tensor:
    """h + softmax_S(X a + mask) b + bias, X the pixels of h; one launch on a GPU where both are small.

    Parameters
    ----------
    h : Tensor (B, C, H, W)
        At its best channels_last.
    a : Tensor (B or 1, C, N S)
        Columns n S + s: queries' and keys' side of head n and token s, with 1 / sqrt(D) in it.
    b : Tensor (B or 1, N S, C)
        Rows n S + s: values' and output projection's side.
    bias : Tensor (C,)
    mask : Tensor (B or 1, S) bool or None
        True where a token counts; at least one in every row.
    heads : int
        N.

    Returns
    -------
    Tensor (B, C, H, W)
        In the dtype and memory format of `h`; the softmax is fp32. Differentiable by h, a, b and bias.

    Raises
    ------
    ValueError
        Shapes that do not fit.
    """
    _check(h, a, b, bias, mask, heads)
    out: Tensor
    if type(h) is not Tensor or torch.compiler.is_compiling():
        out = operator(h, a, b, bias, mask, heads)
    elif not cross_attention_cuda.available(h, a):
        out = twin(h, a, b, bias, mask, heads)
    elif torch.is_grad_enabled() and any(t.requires_grad for t in (h, a, b, bias)):
        out = operator(h, a, b, bias, mask, heads)
    else:
        # past the dispatcher, which costs as much as the launch
        out = cross_attention_cuda.forward(h, a, b, bias, mask, heads)
    return out


@torch.library.custom_op("msdm_kit::short_cross_attention", mutates_args=())
def operator(h: Tensor, a: Tensor, b: Tensor, bias: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """`short_cross_attention` as torch's dispatcher, autograd and compiler see it."""
    if cross_attention_cuda.available(h, a):
        return cross_attention_cuda.forward(h, a, b, bias, mask, heads)
    return twin(h, a, b, bias, mask, heads)


@operator.register_fake
def _(h: Tensor, a: Tensor, b: Tensor, bias: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    return torch.empty_like(h, memory_format=layout(h))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    h, a, b, bias, mask, heads = inputs
    ctx.save_for_backward(h, a, b, bias, mask)
    ctx.heads = heads


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The twin's gradients, from its weights computed again."""
    h, a, b, bias, mask = ctx.saved_tensors
    x, g = _pixels(h), _pixels(grad)
    a_, b_ = a.to(h.dtype), b.to(h.dtype)
    p = _weights(x, a_, mask, ctx.heads)
    dp = (g @ b_.mT).to(p.dtype) * p
    # the softmax's gradient, head by head: p (dp - sum p dp)
    inner = dp.unflatten(-1, (ctx.heads, -1)).sum(-1).repeat_interleave(b.shape[1] // ctx.heads, dim=-1)
    ds = (dp - p * inner).to(h.dtype)
    dx = g + ds @ a_.mT
    dh = dx.transpose(1, 2).unflatten(2, h.shape[2:])
    return (
        dh,
        _shared(x.mT @ ds, a),
        _shared(p.to(h.dtype).mT @ g, b),
        g.sum((0, 1)).to(bias.dtype),
        None,
        None,
    )


def _shared(grad: Tensor, like: Tensor) -> Tensor:
    """Summed over the batch where the batch shares `like`, in its dtype."""
    return (grad.sum(0, keepdim=True) if like.shape[0] < grad.shape[0] else grad).to(like.dtype)


operator.register_autograd(_backward, setup_context=_setup)
