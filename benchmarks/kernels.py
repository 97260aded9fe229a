"""The kernels against the chain of torch operations, at the shapes of the 512-pixel network.

    python -m benchmarks.kernels [--device cuda] [--dtype bf16] [--batch 1] [--repeats 50]

For each shape the time of one pass, interleaved, medians; the ratio; and the bandwidth that the kernel has if
each of its passes reads and writes every map once. On a GPU times are the device's, of a captured graph.
Attention runs on a GPU only: elsewhere its kernel is the chain.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from msdm_kit.core.kernels import cross_attention_op, norm_op
from msdm_kit.core.norm import EPS

# channels and side of the feature maps with norm sites; groups of 32
MAPS = [
    (128, 512),
    (256, 512),
    (128, 256),
    (256, 256),
    (256, 128),
    (512, 64),
    (512, 32),
    (1024, 16),
    (1024, 8),
]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def chain(h: Tensor, maps: Tensor | None, scale: Tensor, shift: Tensor) -> Tensor:
    """What plain torch does: group_norm, modulation, scale-shift, SiLU, each an operation of its own."""
    y = F.group_norm(h, 32, eps=EPS)
    if maps is not None:
        gamma, beta = maps.chunk(2, dim=1)
        y = y * (1 + gamma) + beta
    y = y * (1 + scale[:, :, None, None].to(h.dtype)) + shift[:, :, None, None].to(h.dtype)
    return F.silu(y)


def timer(device: str, function: Callable[[], object]) -> Callable[[], float]:
    """Seconds of one run; on a GPU of a graph with ten runs in it, so that launches do not count."""
    if device == "cpu":

        def clock() -> float:
            began = time.perf_counter()
            function()
            return time.perf_counter() - began

        return clock
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(10):
            function()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def replay() -> float:
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e4

    return replay


def compare(device: str, repeats: int, *functions: Callable[[], object]) -> list[float]:
    """Median seconds of each function, run in turns."""
    clocks = [timer(device, f) for f in functions]
    for clock in clocks:
        clock()
    times = [[clock() for clock in clocks] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def norms(device: str, dtype: torch.dtype, batch: int, repeats: int, largest: int) -> None:
    print(
        "\n| map | modulation | pass | torch, us | kernel, us | ratio | GB/s |\n|---|---|---|---|---|---|---|"
    )
    for channels, side in [m for m in MAPS if m[1] <= largest]:
        for modulated in (False, True):
            h = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
            h = h.to(memory_format=torch.channels_last)
            maps = torch.cat([h, h], dim=1) if modulated else None
            time_ = torch.randn(batch, 2 * channels, device=device)
            scale, shift = time_.chunk(2, dim=1)
            grad = torch.randn_like(h)
            given = (32, None, None, maps, scale, shift, True)
            kernel = norm_op.implementation(h)
            _, mean, rstd = kernel.forward(h, *given)

            leaves = [t.detach().requires_grad_() for t in (h, maps, scale, shift) if t is not None]

            def both(leaves: list[Tensor] = leaves, grad: Tensor = grad) -> object:
                maps = leaves[1] if len(leaves) == 4 else None
                return torch.autograd.grad(chain(leaves[0], maps, *leaves[-2:]), leaves, grad)

            plain, ours, plain_both, backward = compare(
                device,
                repeats,
                lambda h=h, m=maps, s=scale, t=shift: chain(h, m, s, t),
                lambda k=kernel, h=h, g=given: k.forward(h, *g),
                both,
                lambda k=kernel, h=h, g=given, d=grad, m=mean, r=rstd: k.backward(d, h, m, r, *g),
            )
            # forward: h twice, out, gamma, beta; backward: h and grad twice, dh, gamma and beta thrice
            size = h.numel() * h.element_size()
            rows = (
                ("forward", plain, ours, 5 if modulated else 3),
                ("with gradients", plain_both, ours + backward, 16 if modulated else 8),
            )
            shape = f"{batch} x {channels} x {side} x {side} | {'map' if modulated else 'none'}"
            for name, old, new, passes in rows:
                figures = (
                    f"{1e6 * old:.0f} | {1e6 * new:.0f} | {old / new:.2f} | {passes * size / new / 1e9:.0f}"
                )
                print(f"| {shape} | {name} | {figures} |", flush=True)


def attention(device: str, dtype: torch.dtype, batch: int, repeats: int) -> None:
    print("\n| map | heads x tokens | torch, us | kernel, us | ratio |\n|---|---|---|---|---|")
    for channels, side in ((1024, 8), (1024, 16), (512, 32)):
        for tokens in (8, 16, 77):
            h = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
            h = h.to(memory_format=torch.channels_last)
            a = torch.randn(batch, channels, 8 * tokens, device=device, dtype=dtype) / channels**0.5
            given = (h, a, a.mT.contiguous(), h[0, :, 0, 0].contiguous(), None, 8)
            plain, ours = compare(
                device,
                repeats,
                lambda g=given: cross_attention_op.twin(*g),
                lambda g=given: cross_attention_op.short_cross_attention(*g),
            )
            shape = f"{batch} x {channels} x {side} x {side} | 8 x {tokens}"
            print(f"| {shape} | {1e6 * plain:.0f} | {1e6 * ours:.0f} | {plain / ours:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--largest", type=int, default=512, help="leave out maps with a longer side")
    args = parser.parse_args()
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} threads"
    kernel = norm_op.implementation(torch.zeros(1, 32, 1, 1, device=args.device, dtype=DTYPES[args.dtype]))
    print(f"torch {torch.__version__}, {args.device}: {name}, {args.dtype}, norm by {kernel.__name__}")
    norms(args.device, DTYPES[args.dtype], args.batch, args.repeats, args.largest)
    if args.device == "cuda":
        with torch.inference_mode():
            attention(args.device, DTYPES[args.dtype], args.batch, args.repeats)


if __name__ == "__main__":
    main()
