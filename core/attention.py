"""Attention: one function for self- and cross-attention, a plain oracle, and the fused default.

Cross-attention to a few constant tokens is folded into two small matrices. No Triton anywhere.

Shape suffixes: B batch, N heads, L queries, S keys, D head width, C channels.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .kernels.cross_attention_op import short_cross_attention
from .norm import EPS, norm_modulate_silu
from .precision import full_precision

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


def fold_pays(channels: int, heads: int, tokens: int, pixels: int | None = None) -> bool:
    """Whether folded cross-attention needs fewer operations than keys and values that are kept.

    Counted in multiply-adds per sample, with K and V given:

    - kept: 2 L C^2 of the projections of queries and output, 2 L C S of scores and sum;
    - folded: 2 L C N S; and 2 S C^2 to fold, once for as many evaluations as use it.

    So folding pays where N S + S C / L < C + S, without the second term where the state outlives many
    evaluations. The S on the right is left out: it pays for the N S scores of every pixel, which fused
    attention never stores. The second term counts twice: products of so few rows run at about half the rate
    (measured). A backward pass makes both counts three times as large, and changes nothing.

    Parameters
    ----------
    channels, heads, tokens : int
        C, N and S.
    pixels : int or None
        L, where the fold serves one evaluation (training); None where it is made once for many.

    Examples
    --------
    >>> fold_pays(1024, 8, 127), fold_pays(1024, 8, 128)
    (True, False)
    >>> fold_pays(1024, 8, 25, pixels=64), fold_pays(1024, 8, 26, pixels=64)
    (True, False)
    """
    once = 0 if pixels is None else 2 * tokens * channels / pixels
    return heads * tokens + once < channels


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
        height, norm = x.shape[2], self.norm
        y = norm_modulate_silu(x, norm.num_groups, weight=norm.weight, bias=norm.bias, silu=False)
        qkv = self.qkv(rearrange(y, "b c h w -> b (h w) c"))
        q, k, v = rearrange(qkv, "b l (n three d) -> three b n l d", n=self.heads, three=3)
        out = attention(q, k, v, implementation=self.implementation)
        out = self.proj(rearrange(out, "b n l d -> b l (n d)"))
        return x + _map(out, height)


class CrossAttention(nn.Module):
    """h + attention of a feature map to tokens (MSDM, equations 1 and 2).

    Q = X W_Q, K = T W_K, V = T W_V; softmax(Q K' / sqrt(d)) V per head; concatenated, times W^O, plus b^o.
    All that depends on the tokens alone is computed by `prepare`, once; `forward` does the rest.

    Attributes
    ----------
    implementation : {'fused', 'reference'}
        ``fused`` folds where that pays (`fold_pays`) and is one pass over the keys elsewhere; ``reference``
        keeps every token and never folds: equation 1 written out.
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

    def prepare(self, tokens: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """All that depends on the tokens alone.

        Without gradients, tokens that count in no row are left out, and the rest is folded where that pays
        over many evaluations. With gradients nothing depends on the mask's values, so that no device waits,
        and `forward` folds where that pays within one evaluation.

        Parameters
        ----------
        tokens : Tensor (B, S, token_width)
        mask : Tensor (B, S) bool or None
            True where a token counts; at least one in every row.

        Returns
        -------
        dict of str -> Tensor
            ``a`` (B, C, N * S) and ``b`` (B, N * S, C) of `fold`, or ``k`` and ``v`` (B, N, S, D); and
            ``mask`` (B, S) where some row has padding. In the dtype that the layer computes in.
        """
        keep = torch.is_grad_enabled() or self.implementation == "reference"
        if not keep and mask is not None:
            tokens, mask = trim(tokens, mask)
        padding = {} if mask is None else {"mask": mask}
        k, v = self.keys_values(tokens)
        if keep:
            return {"k": k, "v": v, **padding}
        if fold_pays(self.q.in_features, self.heads, tokens.shape[1]):
            a, b = self.fold(k, v)
            return {"a": a, "b": b, **padding}
        dtype = self._dtype(tokens)
        return {"k": k.to(dtype), "v": v.to(dtype), **padding}

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """K and V (B, N, S, D) of tokens (B, S, token_width), in fp32 (fp64 where the weights are)."""
        with full_precision(tokens.device):
            return self._split(_linear(tokens, self.k)), self._split(_linear(tokens, self.v))

    def fold(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """A = W_Q,n K_n' / sqrt(D) and Bm = V_n W^O_n of each head n, side by side: one token, one column.

        Then softmax(X A) Bm + b^o is the attention of X: the projections of C x C have become C x N S. Exact,
        by associativity. Computed in fp32, and rounded once: the products then carry less error in bf16 than
        the projections do one after the other.

        Parameters
        ----------
        k, v : Tensor (B, N, S, D)
            Of `keys_values`.

        Returns
        -------
        a : Tensor (B, C, N * S)
        b : Tensor (B, N * S, C)
            In the dtype that the layer computes in.
        """
        dtype, rows, n = self._dtype(k), len(k), self.heads
        with full_precision(k.device):
            # the rows of a batch are joined, so that the weights are read once and not expanded
            k, v = (rearrange(t, "b n s d -> n (b s) d") for t in (k * k.shape[-1] ** -0.5, v))
            a = k @ rearrange(_full(self.q.weight), "(n d) c -> n d c", n=n)
            b = v @ rearrange(_full(self.out.weight), "c (n d) -> n d c", n=n)
        a = rearrange(a.to(dtype), "n (b s) c -> b c (n s)", b=rows)
        # contiguous: of one token A is a transposed view, and its product slow in bf16 on the CPU
        return a.contiguous(), rearrange(b.to(dtype), "n (b s) c -> b (n s) c", b=rows)

    def forward(self, h: Tensor, state: dict[str, Tensor]) -> Tensor:
        """h + attended (B, C, H, W) of `h` in that shape and a state of `prepare`, of B rows or one."""
        mask = state.get("mask")
        if "a" in state:
            return short_cross_attention(h, state["a"], state["b"], self.out.bias, mask, self.heads)
        k, v = state["k"], state["v"]
        if self.implementation == "fused" and fold_pays(h.shape[1], self.heads, k.shape[2], h[0, 0].numel()):
            return short_cross_attention(h, *self.fold(k, v), self.out.bias, mask, self.heads)
        batch, height = h.shape[0], h.shape[2]
        q = self._split(self.q(rearrange(h, "b c h w -> b (h w) c")))
        k, v = (t.to(q.dtype).expand(batch, -1, -1, -1) for t in (k, v))
        if mask is not None:
            mask = mask.expand(batch, -1)
        out = attention(q, k, v, mask, implementation=self.implementation)
        return h + _map(self.out(rearrange(out, "b n l d -> b l (n d)")), height)

    def _split(self, y: Tensor) -> Tensor:
        out: Tensor = rearrange(y, "b l (n d) -> b n l d", n=self.heads)
        return out

    def _dtype(self, like: Tensor) -> torch.dtype:
        """What the layer computes in: autocast's dtype, else that of its weights."""
        kind = like.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
        return self.q.weight.dtype


def trim(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """The tokens (B, S, width) that count in some row, and their mask, None where all of them count in all.

    Reads the mask's values: a GPU is waited for.
    """
    if mask.is_meta:  # without values: as if all of them counted
        return tokens, None
    counts = mask.any(dim=0)
    tokens, mask = tokens[:, counts], mask[:, counts]
    return tokens, None if mask.all() else mask


def _full(x: Tensor) -> Tensor:
    """In fp32; fp64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """A layer without bias in full precision."""
    weight = _full(layer.weight)
    return F.linear(x.to(weight.dtype), weight)
