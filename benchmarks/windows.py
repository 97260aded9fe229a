"""Large fields by windows: seams against tiles painted apart, and memory by the size of the field.

python -m benchmarks.windows [--side 256] [--window 64] [--steps 6] [--layouts 3] [--memory-sides 512,1024]

Seam ratio: mean absolute difference of neighbours across the windows' borders, over that of all others;
1 is no seam. Tiles painted apart are windows that do not overlap. Memory is what the process holds beyond
files (RssAnon of Linux; pages of scratch files can be written back at any time), at its highest, beyond what
it held after a field of 256 pixels; a network of 8 channels, windows of 128 that overlap by 32, 2 steps.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from msdm_kit import FieldDataset, Pipeline, data_folder
from msdm_kit.backbones.unet import UNet, UNetConfig
from msdm_kit.cli.main import run
from msdm_kit.conditioners.hv_maps import HVMaps, HVMapsConfig
from msdm_kit.core.denoiser import Denoiser, Injection
from msdm_kit.core.injection import match_sites
from msdm_kit.core.mapped import scratch_array
from msdm_kit.core.multistep import unipc
from msdm_kit.core.recipe import DiffusionSection, SampleSection
from msdm_kit.core.sample import Sample, recombine
from msdm_kit.core.sampling import Sampler
from msdm_kit.core.window_conditions import WindowConditions
from msdm_kit.core.window_sampling import draw_windows
from msdm_kit.core.windows import starts
from msdm_kit.plugins.injectors.spade import Spade, SpadeConfig

from .timing import head, machine, row


def seam_ratio(image: np.ndarray, window: int, overlap: int) -> float:
    """Of an image (3, H, W)."""
    on, off = [], []
    for axis in (1, 2):
        steps = np.abs(np.diff(image.astype(np.float64), axis=axis)).mean(axis=(0, 3 - axis))
        begin = starts(image.shape[axis], window, overlap)
        borders = {b - 1 for b in begin[1:]} | {b + window - 1 for b in begin[:-1]}
        inside = np.ones(len(steps), bool)
        inside[list(borders)] = False
        on += steps[~inside].tolist()
        off += steps[inside].tolist()
    return float(np.mean(on) / np.mean(off))


def seams(side: int, window: int, steps: int, layouts: int) -> None:
    """Of the demo model on synthesised layouts."""
    pipeline = Pipeline.load("demo", device="cpu")
    kinds = pipeline.recipe.data.masks
    with tempfile.TemporaryDirectory() as folder:
        size = ["--size", f"{side}x{side}", "--n", str(layouts)]
        if run(["data", "synthesise", "histology-nuclei", f"{folder}/layout", *size]) != 0:
            raise SystemExit("no layouts were made")
        masks = FieldDataset(f"{folder}/layout", masks=kinds, images=False)
        donors = FieldDataset(data_folder("histology-nuclei"), masks=kinds, limit=layouts)
        fields = [recombine(masks[k], donors[k], donors[k]) for k in range(layouts)]
    print(f"{machine()}; demo, {layouts} layouts, {side} x {side}, windows of {window}, {steps} steps\n")
    head("overlap", "windows", "seam ratio", "of each layout", "CPU seconds a field")
    for overlap in (0, window // 8, window // 4, window // 2):
        began, ratios = time.process_time(), []
        for field in fields:
            drawn = pipeline.draw_field(field, window=window, overlap=overlap, steps=steps)
            ratios.append(seam_ratio(drawn.at(slice(side), slice(side))[0].numpy(), window, overlap))
        seconds = (time.process_time() - began) / layouts
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        windows = len(starts(side, window, overlap)) ** 2
        row(overlap or "0: tiles apart", windows, f"{np.mean(ratios):.3f}", each, f"{seconds:.1f}")


def anonymous() -> int:
    """KiB that this process holds beyond files."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def toy() -> Denoiser:
    backbone = UNet(
        UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention_strides=(), head_channels=8, groups=4),
        3,
        3,
    )
    hv = HVMaps(HVMapsConfig(masks=("nucleus",)), {})
    sites = match_sites(("decoder",), backbone.sites, Spade)
    spade = {site.name: Spade(SpadeConfig(hidden=8), hv.spec, site) for site in sites}
    diffusion = DiffusionSection(prediction="v")
    return Denoiser(backbone, {"hv": hv}, [Injection(["hv"], hv.spec, spade)], diffusion).eval()


def measure(side: int) -> None:
    """In a process of its own: print the peak, in MiB, beyond what was held after a small field."""
    labels = scratch_array((side, side), np.int32)
    for k, top in enumerate(range(0, side - 16, 32)):
        for left in range(0, side - 16, 32):
            labels[top : top + 16, left : left + 16] = 1 + k * side + left
    sampler = Sampler(toy(), SampleSection(steps=2), unipc, budget=2**22)

    def paint(masks: np.ndarray) -> None:
        field = Sample("field", {"nucleus": masks})
        conditions = WindowConditions(sampler.network, field, torch.device("cpu"))
        draw_windows(sampler, conditions, id="field", seed=0, window=128, overlap=32)

    paint(labels[:256, :256])
    before, peak, over = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.005):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    paint(labels)
    over.set()
    watcher.join()
    print(f"{max(0, peak - before) / 1024:.0f}")


def memory(sides: list[int]) -> None:
    print()
    head("side, pixels", "windows", "peak beyond a field of 256, MiB", "one image in fp32, MiB")
    for side in sides:
        words = [sys.executable, "-m", "benchmarks.windows", "--measure", str(side)]
        root = Path(__file__).resolve().parents[1]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=root)
        windows = len(starts(side, 128, 32)) ** 2
        row(side, windows, done.stdout.strip(), f"{12 * side**2 / 2**20:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--layouts", type=int, default=3)
    parser.add_argument("--memory-sides", default="512,1024,2048")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    seams(args.side, args.window, args.steps, args.layouts)
    memory([int(side) for side in args.memory_sides.split(",") if side])


if __name__ == "__main__":
    main()
