"""Attention of a feature map to tokens and to itself against the plain ways, weights and inputs the same.

python -m benchmarks.attention [--device cuda] [--rounds 20]
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msdm_kit.core.attention import CrossAttention, SelfAttention, fold_pays

from .timing import head, interleaved, machine, row, speedup

CHANNELS, HEADS, TOKEN_WIDTH = 1024, 8, 768
POSITIONS = (64, 256, 1024)
TOKENS = (8, 16, 77)
SELF = ((512, 32), (1024, 16), (1024, 8))
"""Channels and side of the maps with self-attention in SDM's networks of 256 and 512 pixels."""
HEAD_CHANNELS = 64
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BLOCK = 0.05
"""Seconds between two looks at the clock."""


def plain_cross(layer: CrossAttention, h: Tensor, tokens: Tensor) -> Tensor:
    """All four projections and SDPA, at every step (MSDM, equations 1 and 2, as they are usually written)."""
    x = h.flatten(2).mT.to(tokens.dtype)
    q, k, v = (
        f(y).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        for f, y in ((layer.q, x), (layer.k, tokens), (layer.v, tokens))
    )
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return h + layer.out(out).mT.unflatten(2, h.shape[2:])


def kept_cross(layer: CrossAttention, h: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same, with keys and values from the step before."""
    q = layer.q(h.flatten(2).mT).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return h + layer.out(out).mT.unflatten(2, h.shape[2:])


def plain_self(layer: SelfAttention, x: Tensor) -> Tensor:
    """ADM's way: norm in fp32, 1 x 1 convolutions over channels-first lists, all scores, softmax in fp32."""
    b, c, height, width = x.shape
    norm = layer.norm
    wide = torch.promote_types(x.dtype, torch.float32)
    y = F.group_norm(x.to(wide), norm.num_groups, norm.weight.to(wide), norm.bias.to(wide), norm.eps)
    y = y.to(x.dtype).reshape(b, c, height * width)
    qkv = F.conv1d(y, layer.qkv.weight[..., None], layer.qkv.bias)
    q, k, v = qkv.view(b, layer.heads, 3, c // layer.heads, -1).unbind(2)
    s = (c // layer.heads) ** -0.25
    scores = torch.einsum("bndl,bnds->bnls", q * s, k * s)
    weights = scores.to(wide).softmax(-1).to(x.dtype)
    out = torch.einsum("bnls,bnds->bndl", weights, v).reshape(b, c, -1)
    return x + F.conv1d(out, layer.proj.weight[..., None], layer.proj.bias).view_as(x)


def compare(calls: dict[str, Callable[[], Tensor]], device: torch.device, rounds: int) -> dict[str, float]:
    """How many times faster than the first call each call is, each called for about as long.

    On a busy machine a short run fits between two interruptions and a long one does not: timed once each, the
    faster call would look faster than it is.
    """

    def several(call: Callable[[], Tensor], times: int) -> None:
        for _ in range(times):
            call()

    first = interleaved(calls, 5, warm=2, device=device)
    times = {name: max(1, round(BLOCK / min(seconds))) for name, seconds in first.items()}
    blocks = {name: partial(several, call, times[name]) for name, call in calls.items()}
    seconds = interleaved(blocks, rounds, device=device)
    each = {name: [t / times[name] for t in taken] for name, taken in seconds.items()}
    base = next(iter(each.values()))
    return {name: speedup(base, taken) for name, taken in each.items()}


def error(out: Tensor, h: Tensor, exact: Tensor) -> float:
    """Relative error of what was added to h."""
    return ((out.double() - exact).norm() / (exact - h.double()).norm()).item()


def random_(module: nn.Module, generator: torch.Generator) -> None:
    """Weights that keep variances, none of them zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)


def cross(positions: int, tokens: int, dtype: torch.dtype, device: torch.device, rounds: int) -> list[str]:
    """Cells of the table of cross-attention."""
    g = torch.Generator().manual_seed(0)
    layer = CrossAttention(CHANNELS, TOKEN_WIDTH, HEADS)
    random_(layer, g)
    layer = layer.to(device, dtype)
    h = torch.randn(1, CHANNELS, 8, positions // 8, generator=g).to(device, dtype)
    h = h.to(memory_format=torch.channels_last)
    text = torch.randn(1, tokens, TOKEN_WIDTH, generator=g).to(device, dtype)
    state = layer.prepare(text)
    k, v = (t.to(dtype) for t in layer.keys_values(text))
    times = compare(
        {
            "plain": partial(plain_cross, layer, h, text),
            "kept": partial(kept_cross, layer, h, k, v),
            "ours": partial(layer, h, state),
            "prepare": partial(layer.prepare, text),
        },
        device,
        rounds,
    )
    exact = plain_cross(copy.deepcopy(layer).double(), h.double(), text.double())
    wide = h.float()  # the sum is then rounded in fp32, and what is left is the layer's error
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        errors = [error(out, h, exact) for out in (plain_cross(layer, wide, text), layer(wide, state))]
    kept = 2 * positions * CHANNELS * (CHANNELS + tokens)
    ours = 2 * positions * CHANNELS * HEADS * tokens if fold_pays(CHANNELS, HEADS, tokens) else kept
    fewer = (kept + 2 * tokens * TOKEN_WIDTH * CHANNELS) / ours
    return [
        f"{fewer:.1f}",
        f"{times['kept']:.2f}",
        f"**{times['ours']:.2f}**",
        f"{1 / times['prepare']:.1f}",
        *(f"{e:.1e}" for e in errors),
    ]


def itself(channels: int, side: int, dtype: torch.dtype, device: torch.device, rounds: int) -> list[str]:
    """Cells of the table of self-attention."""
    g = torch.Generator().manual_seed(0)
    layer = SelfAttention(channels, HEAD_CHANNELS, 32)
    random_(layer, g)
    layer = layer.to(device, dtype)
    x = torch.randn(1, channels, side, side, generator=g).to(device, dtype)
    ways = {
        "plain": partial(plain_self, layer, x),
        "ours": partial(layer, x.to(memory_format=torch.channels_last)),
    }
    times = compare(ways, device, rounds)
    exact = plain_self(copy.deepcopy(layer).double(), x.double())
    return [f"**{times['ours']:.2f}**", *(f"{error(way(), x, exact):.1e}" for way in ways.values())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    how = {"device": args.device, "rounds": args.rounds}
    print(f"{machine(args.device)}\n")
    print(f"Cross-attention, {CHANNELS} channels, {HEADS} heads, tokens of {TOKEN_WIDTH}: times as fast as")
    print("projections + SDPA at every step; `prepare`, once per sample, in such steps; errors of both")
    print()
    head("tokens", "positions", "", "fewer operations", "K, V kept", "ours", "prepare", "error", "ours")
    with torch.inference_mode():
        for label, dtype in DTYPES.items():
            for positions in POSITIONS:
                for tokens in TOKENS:
                    row(tokens, positions, label, *cross(positions, tokens, dtype, **how))
        print(f"\nSelf-attention, {HEAD_CHANNELS} channels per head: times as fast as ADM's way.\n")
        head("channels", "map", "", "ours", "error", "ours")
        for label, dtype in DTYPES.items():
            for channels, side in SELF:
                row(channels, f"{side} x {side}", label, *itself(channels, side, dtype, **how))


if __name__ == "__main__":
    main()
