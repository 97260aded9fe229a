"""Large fields by windows: seams against tiles painted apart, and memory by the size of the field.

python -m benchmarks.windows [--side 384] [--window 128] [--steps 8] [--memory-sides 512,1024,2048]

Seam ratio: mean absolute difference of neighbours across the windows' borders, over that of all others;
1 is no seam. Tiles painted apart are windows that do not overlap. Memory is what the process holds beyond
files (RssAnon of Linux), at its highest, beyond what it held before; a network of 8 channels.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
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


def seams(side: int, window: int, steps: int) -> None:
    pipeline = Pipeline.load("demo", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        size = ["--size", f"{side}x{side}", "--n", "1"]
        run(["data", "synthesise", "histology-nuclei", f"{folder}/layout", *size])
        masks = FieldDataset(f"{folder}/layout", masks=pipeline.recipe.data.masks, images=False)[0]
    donor = FieldDataset(data_folder("histology-nuclei"), masks=pipeline.recipe.data.masks, limit=1)[0]
    field = recombine(masks, donor, donor)
    print(f"{machine()}; demo, {side} x {side}, windows of {window}, {steps} steps\n")
    head("overlap", "windows", "seam ratio")
    for overlap in (0, window // 8, window // 4, window // 2):
        done: list[int] = []
        settings = {"window": window, "overlap": overlap, "steps": steps}
        drawn = pipeline.draw_field(field, on_windows=done.append, **settings)
        image = drawn.at(slice(side), slice(side))[0].numpy()
        per_axis = len(starts(side, window, overlap))
        row(overlap or "0: tiles apart", per_axis**2, f"{seam_ratio(image, window, overlap):.3f}")


def anonymous() -> int:
    """KiB that this process holds beyond files."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def toy() -> Denoiser:
    backbone = UNet(
        UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention_strides=(), head_channels=8, groups=4),
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
    print(f"{(peak - before) / 1024:.0f}")


def memory(sides: list[int]) -> None:
    print()
    head("side, pixels", "peak beyond a field of 256, MiB", "one image in fp32, MiB")
    for side in sides:
        words = [sys.executable, "-m", "benchmarks.windows", "--measure", str(side)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        row(side, done.stdout.strip(), f"{12 * side**2 / 2**20:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--side", type=int, default=384)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--memory-sides", default="512,1024,2048")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    seams(args.side, args.window, args.steps)
    memory([int(side) for side in args.memory_sides.split(",") if side])


if __name__ == "__main__":
    main()
