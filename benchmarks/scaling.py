"""Several processes of one thread against one process of one thread, in images per second.

    python -m benchmarks.scaling [--processes 2] [--repeats 5] [--steps 12] [--fields 8]
        [--set train.batch=8 ...] [--what training sampling]

Training: the recipe `quickstart` on the built-in data, from the second step to the last, without validation
and saving. Sampling: the demo model on built-in fields, from the plan to the last pair, after others were
painted. Each figure is of a fresh job that torchrun starts; jobs of one and of several processes take turns,
and the speed-up is the median of the ratios of neighbours. The clock is that of the wall: run it on a quiet
machine with at least as many cores as processes. Efficiency is the speed-up over the number of processes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from msdm_kit import load_recipe, train
from msdm_kit.core.optimise import StepReport
from msdm_kit.core.processes import joined
from msdm_kit.plugins.painting import paint

from .timing import ROOT, head, machine, row

WORKER = "--worker"
QUIET = ("train.validate_every=1000000", "train.preview_every=1000000", "train.save_every=1000000")


def training(folder: Path, steps: int, changes: list[str]) -> float:
    """Images per second of a training job, as its leader sees it."""
    times: list[float] = []
    recipe = load_recipe("quickstart", [*QUIET, "train.workers=0", f"train.steps={steps}", *changes])

    def listen(event: object) -> None:
        if isinstance(event, StepReport):
            times.append(time.perf_counter())

    train(recipe, "histology-nuclei", folder / "run", device="cpu", listener=listen)
    if not times:  # not the leader
        return 0.0
    return (len(times) - 1) * recipe.train.batch * recipe.train.accumulate / (times[-1] - times[0])


def sampling(folder: Path, fields: int, processes: int) -> float:
    """Images per second of a sampling job."""
    paint("demo", "histology-nuclei", folder / "warm", n=processes, device="cpu")
    began = time.perf_counter()
    paint("demo", "histology-nuclei", folder / "pairs", n=fields, device="cpu")
    return fields / (time.perf_counter() - began)


def work(args: argparse.Namespace) -> None:
    """One process of a job; the leader prints."""
    torch.set_num_threads(1)
    with joined() as here:
        folder = Path(args.folder)
        if args.worker == "training":
            rate = training(folder, args.steps, args.set)
        else:
            rate = sampling(folder, args.fields, here.count)
        here.wait()
        if here.leads:
            print(json.dumps(rate))


def measure(what: str, processes: int, args: argparse.Namespace) -> float:
    """Images per second of a fresh job."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), "-m", "benchmarks.scaling", WORKER, what),
            *("--folder", folder, "--steps", str(args.steps), "--fields", str(args.fields)),
            *(word for change in args.set for word in ("--set", change)),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12, help="optimiser steps of a training job")
    parser.add_argument("--fields", type=int, default=8, help="painted by a sampling job")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    parser.add_argument("--what", nargs="+", default=["training", "sampling"])
    parser.add_argument(WORKER, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    torch.set_num_threads(1)
    print(f"{machine()}; {args.repeats} jobs each, interleaved\n")
    head("what", "1 process, images/s", f"{args.processes} processes, images/s", "speed-up", "efficiency")
    for what in args.what:
        rates: dict[int, list[float]] = {1: [], args.processes: []}
        for _ in range(args.repeats):
            for processes, found in rates.items():
                found.append(measure(what, processes, args))
        ratios = [b / a for a, b in zip(rates[1], rates[args.processes], strict=True)]
        faster = statistics.median(ratios)
        row(
            what,
            *(f"{statistics.median(found):.3g}" for found in rates.values()),
            f"{faster:.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{faster / args.processes:.0%}",
        )


if __name__ == "__main__":
    main()
