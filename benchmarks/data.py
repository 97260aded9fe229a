"""Commands on data sets: fields per second with one process and with all cores, and peak memory.

    python -m benchmarks.data [--fields 2000] [--side 96] [--workers N] [--folder DIR]

The set is made of crops of the built-in one, each of another place, with cells and nuclei. Every command runs
once in a process of its own, as a user runs it: what it loads, the start of its workers and writing to the
disk count. It finds the files in the system's cache. Memory is resident: of the one process, and at most that
of the main process and all workers, as if each of them were the largest and nothing shared.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from msdm_kit import FieldDataset, data_folder
from msdm_kit.core.fields import IMAGES, MANIFEST, mask_folder
from msdm_kit.core.images import save_image, save_labels
from msdm_kit.core.sample import Sample
from msdm_kit.plugins.parallel import ordered_map

from .timing import head, machine, row

KINDS = ("nucleus", "cell")
COLUMNS = ("split", "assay", "slide")
# The peak is that of VmHWM where there is one: of getrusage, Linux lets a process inherit its parent's.
PROBE = """\
import json, resource, sys
from pathlib import Path
from msdm_kit.cli.main import run
code = run(sys.argv[1:])
unit = 2**20 if sys.platform == "darwin" else 2**10
who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
own, worker = (resource.getrusage(each).ru_maxrss / unit for each in who)
status = Path("/proc/self/status")
for line in status.read_text().splitlines() if status.exists() else ():
    if line.startswith("VmHWM"):
        own = int(line.split()[1]) / 2**10
print(json.dumps([code, own, worker]))
"""


@cache
def sources() -> list[Sample]:
    """The built-in fields, read once in a process."""
    dataset = FieldDataset(data_folder("histology-nuclei"), masks=KINDS)
    return [dataset[i] for i in range(len(dataset))]


def write_crop(folder: Path, side: int, number: int) -> dict[str, str]:
    """Write a crop with at least one nucleus, and give its row of the manifest."""
    rng = np.random.default_rng(number)
    while True:
        source = sources()[rng.integers(len(sources()))]
        top, left = (rng.integers(extent - side + 1) for extent in source.size)
        crop = np.s_[top : top + side, left : left + side]
        if source.masks["nucleus"][crop].any():
            break
    id = f"field_{number:06d}"
    save_image(folder / IMAGES / f"{id}.png", source.image[:, *crop])
    for kind in KINDS:
        save_labels(folder / mask_folder(kind) / f"{id}.png", source.masks[kind][crop])
    return {"id": id, **{name: source.metadata[name] for name in COLUMNS}}


def write_set(folder: Path, fields: int, side: int, workers: int) -> None:
    """Write a data set of crops of side x side pixels."""
    for name in (IMAGES, *map(mask_folder, KINDS)):
        (folder / name).mkdir(parents=True)
    with open(folder / MANIFEST, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, ["id", *COLUMNS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(ordered_map(partial(write_crop, folder, side), range(fields), workers))


@dataclass(frozen=True)
class Command:
    """A command on the set; `out`: the folder that it writes, which a later one reads; None for none."""

    words: tuple[str, ...]
    out: str | None = None
    parallel: bool = True


def commands(fields: int, side: int) -> list[Command]:
    """What is measured, in an order in which each finds what it reads."""
    elongated = "mean_cell_eccentricity > 0.8 and assay == 'purple-on-lilac'"
    size = f"{side}x{side}"
    return [
        Command(("check", "set")),
        Command(("stats", "set", "--group", "assay")),
        Command(("select", "set", "--where", elongated)),
        Command(("export", "set", "stardist", "--format", "stardist", "--mask-kind", "nucleus"), "stardist"),
        Command(("import", "stardist", "nuclei", "--metadata", "stardist/fields.csv"), "nuclei"),
        Command(("derive-cells", "nuclei", "cells"), "cells"),
        Command(("synthesise", "set", "layouts", "--n", str(fields), "--size", size), "layouts", False),
    ]


def measure(folder: Path, words: Sequence[str]) -> tuple[float, float, float]:
    """Run ``msdm-kit data WORDS`` in a process of its own.

    Returns
    -------
    seconds, own, worker : float
        From its start to its end; peak resident MiB of it, and of the largest process that it started.

    Raises
    ------
    SystemExit
        The command failed; that the check finds errors is no failure.
    """
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "data", *words], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"msdm-kit data {' '.join(words)} ended with status {done.returncode}")
    code, own, worker = json.loads(done.stdout.splitlines()[-1])
    if code > (words[0] == "check"):
        sys.exit(f"msdm-kit data {' '.join(words)} ended with status {code}")
    return seconds, own, worker


def compare(folder: Path, command: Command, fields: int, workers: int) -> None:
    """Print a row: with one process, and with several where the command takes them."""
    cells = []
    for count in (1, workers) if command.parallel else (1,):
        if command.out is not None:
            shutil.rmtree(folder / command.out, ignore_errors=True)
        several = ("--workers", str(count)) if command.parallel else ()
        seconds, own, worker = measure(folder, [*command.words, *several])
        cells += [f"{fields / seconds:.0f}", f"{own + (count * worker if count > 1 else 0):.0f}"]
    row(f"`data {command.words[0]}`", *cells, *("" for _ in range(4 - len(cells))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fields", type=int, default=2000)
    parser.add_argument("--side", type=int, default=96, help="pixels")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="default: all cores")
    parser.add_argument("--folder", type=Path, help="scratch space; default: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(scratch)
        began = time.perf_counter()
        write_set(folder / "set", args.fields, args.side, args.workers)
        took = time.perf_counter() - began
        what = f"{args.fields} fields of {args.side} x {args.side} pixels"
        print(f"{machine()}; {what}, made in {took:.0f} s\n")
        together = f"{args.workers} processes"
        head("command", "fields/s, 1 process", "peak, MiB", f"fields/s, {together}", "at most, MiB")
        for command in commands(args.fields, args.side):
            compare(folder, command, args.fields, args.workers)


if __name__ == "__main__":
    main()
