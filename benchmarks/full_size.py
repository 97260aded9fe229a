"""One optimiser step and a two-step sample of a full-size recipe, with the peak memory of each.

    python -m benchmarks.full_size [--recipe msdm] [--size 256]

Runs on the CPU of a machine with 24 GB; nothing is written.
"""

import argparse
import time

import torch

from msdm_kit.core.denoiser import to_device
from msdm_kit.core.loader import TrainingStream, make_loader
from msdm_kit.core.optimise import Optimiser
from msdm_kit.core.sampling import Sampler
from msdm_kit.core.solvers import ddim
from msdm_kit.plugins.data import data_folder
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.splits import open_splits
from msdm_kit.plugins.training import new_denoiser

from .timing import machine, peak_mib


def peak_gib() -> float:
    """Peak resident memory of this process so far, GiB."""
    return peak_mib() / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="msdm")
    parser.add_argument("--size", type=int, default=256, help="training crop and sample, pixels")
    parser.add_argument("--data", default="histology-nuclei")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, [f"data.crop={args.size}", "train.batch=1", "train.accumulate=1"])
    print(f"{machine()}; start {peak_gib():.2f} GiB")

    began = time.perf_counter()
    splits = open_splits(recipe, data_folder(args.data))
    denoiser = new_denoiser(recipe, splits.train).to(memory_format=torch.channels_last)
    count = sum(p.numel() for p in denoiser.parameters())
    seconds = time.perf_counter() - began
    print(f"built: {count / 1e6:.1f} M parameters, {seconds:.1f} s, peak {peak_gib():.2f} GiB")

    drop = {name: entry.drop for name, entry in recipe.conditioners.items()}
    optimiser = Optimiser(denoiser, recipe.train, total=1, drop=drop)
    stream = TrainingStream(splits.train, denoiser.by_name, recipe.data, recipe.train.seed)
    batch = next(iter(make_loader(stream, [[0]], workers=0)))
    began = time.perf_counter()
    report = optimiser.step([batch])
    print(
        f"one optimiser step: loss {report.loss:.4f}, gradient norm {report.gradient_norm:.3f}, "
        f"{time.perf_counter() - began:.1f} s, peak {peak_gib():.2f} GiB"
    )

    settings = recipe.sample.model_copy(update={"steps": 2, "precision": recipe.train.precision})
    denoiser.eval()
    began = time.perf_counter()
    with torch.inference_mode():
        signals = denoiser.encode(to_device(batch.observations, optimiser.device))
    settings = ddim.settle(settings, len(denoiser.schedule))
    sampler = Sampler(denoiser, settings, ddim)
    image = sampler.draw(signals, ids=batch.ids, size=(args.size, args.size), seed=0)
    print(
        f"two-step sample {tuple(image.shape)}: finite {bool(image.isfinite().all())}, "
        f"{time.perf_counter() - began:.1f} s, peak {peak_gib():.2f} GiB"
    )


if __name__ == "__main__":
    main()
