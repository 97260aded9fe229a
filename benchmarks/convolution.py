"""3 x 3 convolutions of a network's step, one by one: torch's, with packed weights, by Winograd's algorithm.

    python -m benchmarks.convolution [--config S L] [--dtype fp32 bf16] [--repeats 30] [--batch 1]

The layers are those of the configurations of `benchmarks.sampling`. Times are interleaved, on a CPU with one
thread the process's own, the least of all repeats; errors are root mean square, relative, to fp64. Where the
map is doubled first, by nearest neighbour, the time of that is in all three.
"""

import argparse
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from msdm_kit.core.kernels import packed_conv, winograd
from msdm_kit.core.kernels.convolutions import doubled_conv
from msdm_kit.core.kernels.packed_conv import PackedConv2d
from msdm_kit.core.kernels.winograd import WinogradConv2d, doubled

from .timing import head, interleaved, machine, row

# side of the map, channels, channels after, doubled first
LAYERS = {
    "S": [
        *((128, 32, 32, False), (128, 64, 32, False), (128, 96, 32, False), (64, 64, 64, True)),
        *((64, 64, 64, False), (64, 128, 64, False), (64, 96, 64, False), (32, 64, 64, True)),
        *((32, 64, 64, False), (32, 128, 64, False), (16, 128, 128, True), (16, 128, 128, False)),
        *((16, 256, 128, False), (8, 128, 128, False), (8, 256, 128, False), (4, 256, 256, True)),
        *((4, 256, 256, False), (4, 512, 256, False), (2, 256, 256, False), (2, 512, 256, False)),
    ],
    "L": [
        *((256, 128, 128, False), (256, 256, 128, False), (128, 256, 256, True), (128, 256, 256, False)),
        *((128, 512, 256, False), (64, 256, 256, False), (32, 512, 512, True), (32, 512, 512, False)),
        *((32, 1024, 512, False), (16, 512, 512, False), (8, 1024, 1024, True), (8, 1024, 1024, False)),
        *((8, 2048, 1024, False), (4, 1024, 1024, True), (4, 1024, 1024, False), (4, 2048, 1024, False)),
    ],
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LARGEST = 2**32
"""Multiplications of which an error in fp64 is computed."""


@torch.inference_mode()
def measure(side: int, c: int, k: int, up: bool, dtype: torch.dtype, batch: int, repeats: int) -> list[str]:
    """The cells of a layer's row."""
    torch.manual_seed(0)
    conv = nn.Conv2d(c, k, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
    x = torch.randn(batch, c, side, side).to(dtype).to(memory_format=torch.channels_last)
    small = PackedConv2d(conv) if packed_conv.packs(conv) else conv
    layers = {"torch": conv, "packed": small, "winograd": WinogradConv2d(conv)}
    calls = {name: partial(doubled_conv if up else nn.Module.__call__, m, x) for name, m in layers.items()}
    seconds = {name: min(all_) for name, all_ in interleaved(calls, repeats, warm=2).items()}
    before = min(seconds["torch"], seconds["packed"])
    gflop = 18e-9 * batch * side**2 * (4 if up else 1) * c * k
    times = [f"{1e3 * seconds[name]:.3f}" for name in layers]
    errors = ["-", "-"]
    if gflop * 5e8 <= LARGEST:
        exact = F.conv2d(
            (doubled(x) if up else x).double(), conv.weight.double(), conv.bias.double(), padding=1
        )
        outs = (calls["torch"](), calls["winograd"]())
        errors = [f"{float((y.double() - exact).norm() / exact.norm()):.1e}" for y in outs]
    speed = f"{before / seconds['winograd']:.2f}"
    return [*times, speed, f"{gflop / before:.0f}", f"{gflop / seconds['winograd']:.0f}", *errors]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", nargs="+", default=["S", "L"], choices=LAYERS)
    parser.add_argument("--dtype", nargs="+", default=["fp32", "bf16"], choices=DTYPES)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{machine()}, batch {args.batch}\n")
    head(
        *("config", "dtype", "map", "channels", "torch, ms", "packed, ms", "Winograd, ms", "times faster"),
        *("GFLOP/s before", "GFLOP/s, as if direct", "error before", "error"),
    )
    for name in args.config:
        for dtype in args.dtype:
            if not winograd.available(DTYPES[dtype]):
                raise SystemExit(f"no kernel for {dtype} on this machine")
            for side, c, k, up in LAYERS[name]:
                size = f"{side} x {side}" + (", doubled" if up else "")
                cells = measure(side, c, k, up, DTYPES[dtype], args.batch, args.repeats)
                row(name, dtype, size, f"{c} to {k}", *cells)


if __name__ == "__main__":
    main()
