"""Attention: one function for self- and cross-attention, a plain oracle, and the fused default.

No Triton anywhere. Shape suffixes: B batch, N heads, L queries, S keys, D head width, C channels.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .norm import EPS

Implementation = Literal["fused", "reference"]


def attention_reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(D)) v, written out: the oracle (Vaswani et al. 2017, equation 1).

    Scores and softmax are computed in fp32 (fp64 for fp64 input), as ADM does.

    Parameters
    ----------
    q : Tensor (B, N, L, D)
    k, v : Tensor (B, N, S, D)
    mask : Tensor (B, S) bool or None
        True where a key counts; at least one in every row.

    Returns
    -------
    Tensor (B, N, L, D)
        In the dtype of `v`.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    # d^-1/4 on both sides: the product stays in range in half precision (ADM, QKVAttentionLegacy)
    s = q.shape[-1] ** -0.25
    scores = (q.to(dtype) * s) @ (k.to(dtype) * s).transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
    return (scores.softmax(dim=-1) @ v.to(dtype)).to(v.dtype)


def attention_fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The same in one pass over the keys, never holding the L x S scores. See `attention_reference`."""
    bias = None if mask is None else mask[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


_IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "fused": attention_fused,
    "reference": attention_reference,
}


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, implementation: Implementation = "fused"
) -> Tensor:
    """Attention by the named implementation. Shapes as in `attention_reference`."""
    return _IMPLEMENTATIONS[implementation](q, k, v, mask)


def zero(module: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """Zero a layer's parameters, so that its branch starts as nothing (ADM, `zero_module`)."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class SelfAttention(nn.Module):
    """x + proj(attention(qkv(GN(x)))) over the pixels of a feature map (ADM, AttentionBlock).

    The channels of qkv are split into heads first and into q, k, v within each head, the order of released
    SDM and ADM weights. Works on a (B, HW, C) view: no copy where the map is channels_last.
    """

    implementation: Implementation = "fused"

    def __init__(self, channels: int, head_channels: int, groups: int) -> None:
        super().__init__()
        if channels % head_channels:
            raise ValueError(f"head_channels {head_channels} does not divide {channels} channels")
        self.heads = channels // head_channels
        self.norm = nn.GroupNorm(groups, channels, eps=EPS)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = self.norm(x).permute(0, 2, 3, 1).reshape(b, h * w, c)
        qkv = self.qkv(y).view(b, h * w, self.heads, 3, -1)
        q, k, v = qkv.permute(3, 0, 2, 1, 4)
        out = attention(q, k, v, implementation=self.implementation)
        out = self.proj(out.transpose(1, 2).reshape(b, h * w, c))
        return x + out.view(b, h, w, c).permute(0, 3, 1, 2)


class CrossAttention(nn.Module):
    """Attention of a feature map to tokens (MSDM, equations 1 and 2).

    Q = X W_Q, K = T W_K, V = T W_V; softmax(Q K' / sqrt(d)) V per head; concatenated, times W^O, plus b^o.
    """

    implementation: Implementation = "fused"

    def __init__(self, channels: int, token_width: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads {heads} does not divide {channels} channels")
        self.heads = heads
        self.q = nn.Linear(channels, channels, bias=False)
        self.k = nn.Linear(token_width, channels, bias=False)
        self.v = nn.Linear(token_width, channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """K and V (B, N, S, D) of tokens (B, S, token_width): they do not depend on the image."""

        def split(y: Tensor) -> Tensor:
            return y.view(*y.shape[:2], self.heads, -1).transpose(1, 2)

        return split(self.k(tokens)), split(self.v(tokens))

    def forward(self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """What is to be added to `x` (B, C, H, W), given K, V (B or 1, N, S, D) and mask (B or 1, S)."""
        b, c, h, w = x.shape
        q = self.q(x.permute(0, 2, 3, 1).reshape(b, h * w, c))
        q = q.view(b, h * w, self.heads, -1).transpose(1, 2)
        k, v = k.to(q.dtype).expand(b, -1, -1, -1), v.to(q.dtype).expand(b, -1, -1, -1)
        if mask is not None:
            mask = mask.expand(b, -1)
        out = attention(q, k, v, mask, implementation=self.implementation)
        out = self.out(out.transpose(1, 2).reshape(b, h * w, c))
        return out.view(b, h, w, c).permute(0, 3, 1, 2)
