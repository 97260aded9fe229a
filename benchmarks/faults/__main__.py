"""Faults in training: runs are cut at random points, go on, and are compared with one that was not cut.

    python -m benchmarks.faults [--points 100] [--kinds NAME ...] [--seed 0] [--folder DIR]

Prints, for every kind of fault, how often it met a run, after how many of those every file of the run was
whole, how many runs went on to their end, and in how many things these differ, bit for bit, from a run that
nothing happened to: weights, averages, moments, losses, previews, and what else is in its folder. With a
difference it names them and ends with status 1.

Runs are children of one process, which has loaded all there is to load; they compute on the CPU in one
thread.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import torch

from ..timing import head, row
from .training import KINDS, Training


def main() -> None:
    parser = argparse.ArgumentParser(prog="faults", description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100, help="faults of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs are left; default: nowhere")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        training = Training(folder, time.monotonic)
        print(f"one run: {training.seconds:.1f} s, {training.operations} file operations\n")
        head("fault", "points", "survived", "runs to the end", "differences")
        wrong = []
        for kind in args.kinds:
            found = training.try_out(kind, args.points, args.seed)
            row(kind, found.points, found.survived, found.runs, len(found.wrong))
            wrong += found.wrong
        print("\n".join(["", *wrong]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
