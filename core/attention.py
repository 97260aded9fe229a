"""Attention: one function for self- and cross-attention, a plain oracle, and the fused default.

No Triton anywhere. Shape suffixes: B batch, N heads, L queries, S keys, D head width, C channels.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
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
    out: Tensor = scores.softmax(dim=-1) @ v.to(dtype)
    return out.to(v.dtype)


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


def _map(tokens: Tensor, height: int) -> Tensor:
    """Pixels as a list (B, HW, C) as a map (B, C, H, W), a view."""
    out: Tensor = rearrange(tokens, "b (h w) c -> b c h w", h=height)
    return out


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
        height = x.shape[2]
        qkv = self.qkv(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        q, k, v = rearrange(qkv, "b l (n three d) -> three b n l d", n=self.heads, three=3)
        out = attention(q, k, v, implementation=self.implementation)
        out = self.proj(rearrange(out, "b n l d -> b l (n d)"))
        return x + _map(out, height)


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
        return self._split(self.k(tokens)), self._split(self.v(tokens))

    def _split(self, y: Tensor) -> Tensor:
        out: Tensor = rearrange(y, "b l (n d) -> b n l d", n=self.heads)
        return out

    def forward(self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """What is to be added to `x` (B, C, H, W), given K, V (B or 1, N, S, D) and mask (B or 1, S)."""
        b, height = x.shape[0], x.shape[2]
        q = self._split(self.q(rearrange(x, "b c h w -> b (h w) c")))
        k, v = k.to(q.dtype).expand(b, -1, -1, -1), v.to(q.dtype).expand(b, -1, -1, -1)
        if mask is not None:
            mask = mask.expand(b, -1)
        out = attention(q, k, v, mask, implementation=self.implementation)
        return _map(self.out(rearrange(out, "b n l d -> b l (n d)")), height)
