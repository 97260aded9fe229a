"""The memory that is estimated before a run, beside what the run then takes: ``python -m benchmarks.memory``.

On a CPU. Training: the estimate of a dry run in one process, and the high-water mark of another that trains
three steps, validates, paints a preview and saves. Painting: the estimate that `sample` makes before it
paints, and the high-water mark of that process from there on. Of each the whole process, and what the work
added to what the process held before.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from msdm_kit.core.augment import centre_crop
from msdm_kit.core.dataset import FieldDataset
from msdm_kit.plugins.build import build_conditioners, build_denoiser
from msdm_kit.plugins.data import data_folder
from msdm_kit.plugins.estimate import Memory
from msdm_kit.plugins.painting_estimate import estimate_painting
from msdm_kit.plugins.pipeline import Pipeline
from msdm_kit.plugins.plan import plan_run
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.training import train

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
DATA = "histology-nuclei"
TRAINED = "train.epochs=null train.steps=3 train.workers=0"
MSDM = f"msdm {TRAINED} backbone.channels=64"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "train quickstart": ("quickstart train.steps=3 train.workers=0", {}),
    "train quickstart, batch 24": ("quickstart train.steps=3 train.workers=0 train.batch=24", {}),
    "train quickstart, batch 24, checkpointing": (
        "quickstart train.steps=3 train.workers=0 train.batch=24 train.checkpointing=true",
        {},
    ),
    "train quickstart, 128 px, fp32": (
        "quickstart train.steps=3 train.workers=0 train.precision=fp32 data.crop=128",
        {},
    ),
    "train msdm, 64 px, batch 2, fp32": (
        f"{MSDM} train.batch=2 data.crop=64 train.precision=fp32 train.checkpointing=false",
        {},
    ),
    "train msdm, 64 px, 2 x batch 2, fp32": (
        f"{MSDM} train.batch=2 train.accumulate=2 data.crop=64 train.precision=fp32",
        {},
    ),
    "train msdm, 128 px, batch 2, bf16": (
        f"{MSDM} train.batch=2 data.crop=128 train.checkpointing=false",
        {},
    ),
    "train msdm, 128 px, batch 2, bf16, checkpointing": (
        f"{MSDM} train.batch=2 data.crop=128 train.checkpointing=true",
        {},
    ),
    "sample demo, 256 px, bf16": ("demo", {"side": 256, "steps": 4}),
    "sample demo, 256 px, fp32": ("demo", {"side": 256, "steps": 4, "precision": "fp32"}),
    "sample demo, 256 px, fp32, guidance 1.5": (
        "demo",
        {"side": 256, "steps": 4, "precision": "fp32", "guidance": 1.5},
    ),
    "sample demo, 256 px, fp32, memory 0": (
        "demo",
        {"side": 256, "steps": 4, "precision": "fp32", "memory": 0},
    ),
    "sample demo, 256 px by windows of 64": ("demo", {"side": 256, "steps": 4, "window": 64}),
    "sample msdm, 64 px, fp32": (f"{MSDM} data.crop=64", {"side": 64, "steps": 4}),
    "sample msdm, 128 px, fp32": (f"{MSDM} data.crop=64", {"side": 128, "steps": 4}),
    "sample msdm, 128 px, bf16": (f"{MSDM} data.crop=64", {"side": 128, "steps": 4, "precision": "bf16"}),
    "sample msdm, 128 px, fp32, guidance 1.5": (
        f"{MSDM} data.crop=64 conditioners.morphology.drop=0.1 conditioners.colour.drop=0.1 "
        f"conditioners.text.drop=0.1",
        {"side": 128, "steps": 4, "guidance": 1.5},
    ),
    "sample msdm, 256 px, fp32, guidance 1.5": (
        f"{MSDM} data.crop=64 conditioners.morphology.drop=0.1 conditioners.colour.drop=0.1 "
        f"conditioners.text.drop=0.1",
        {"side": 256, "steps": 2, "guidance": 1.5},
    ),
}


def held(name: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process, in bytes."""
    line = next(x for x in STATUS.read_text(encoding="ascii").splitlines() if x.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def recipe_of(text: str) -> Any:
    name, *sets = shlex.split(text)
    return load_recipe(name, sets)


def planned(text: str) -> Memory:
    with tempfile.TemporaryDirectory() as work:
        return plan_run(recipe_of(text), DATA, Path(work) / "run").memory


def trained(text: str) -> int:
    with tempfile.TemporaryDirectory() as work:
        train(recipe_of(text), DATA, Path(work) / "run")
    return held("VmHWM")


def painted(text: str, settings: dict[str, Any]) -> tuple[int, int, int]:
    """Bytes held before, the estimate of the peak, and the peak."""
    dataset = FieldDataset(data_folder(DATA), limit=1)
    if text == "demo":
        pipeline = Pipeline.load("demo", device="cpu")
    else:
        recipe = recipe_of(text)
        denoiser = build_denoiser(recipe, build_conditioners(recipe, rows=dataset.rows))
        denoiser = denoiser.to(memory_format=torch.channels_last)
        pipeline = Pipeline(recipe, denoiser, weights_hash="", step=0)
    field = centre_crop(dataset[0], settings.pop("side"))
    chosen = pipeline.settings(**settings)
    memory = estimate_painting(pipeline.recipe, pipeline.denoiser, chosen, size=field.size)
    CLEAR.write_text("5", encoding="ascii")  # the high-water mark begins anew
    before = held("VmRSS")
    list(pipeline.sample([field], **settings))
    return before, memory.total, held("VmHWM")


def measure(case: str, part: str) -> None:
    """Run a part of a case in this process, and print its numbers."""
    text, settings = CASES[case]
    if part == "plan":
        memory = planned(text)
        print(json.dumps([memory.process, memory.total]))
    elif part == "train":
        print(json.dumps(trained(text)))
    else:
        print(json.dumps(painted(text, dict(settings))))


def child(case: str, part: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.memory", "--case", case, "--part", part]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        measure(args.case, args.part)
        return
    print("| what | peak, MiB | estimate, MiB | error | added, MiB | estimate, MiB | error |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        if args.only not in case:
            continue
        if case.startswith("train"):
            before, estimate = child(case, "plan")
            peak = child(case, "train")
        else:
            before, estimate, peak = child(case, "paint")
        row = [f"{case}"]
        for true, said in ((peak, estimate), (peak - before, estimate - before)):
            row += [f"{true / MIB:.0f}", f"{said / MIB:.0f}", f"{said / true - 1:+.0%}"]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
