"""Commands on data sets: fields per second with one process and with all cores, and peak memory.

    python -m benchmarks.data [--fields 2000] [--side 96] [--workers N] [--all-cores] [--only NAME ...]
        [--folder DIR]

The set is made of crops of the built-in one, each of another place, with cells and nuclei, and a class of
every nucleus by its size. Every command runs once in a process of its own, as a user runs it: what it loads,
the start of its workers and writing to the disk count. It finds the files in the system's cache. CPU seconds
are those of all its processes together: fields per CPU second are what one core does, whatever else the
machine has to do. Memory is resident: of the one process, and at most that of the main process and all
workers, as if each of them were the largest and nothing shared.
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
from msdm_kit.core.fields import MANIFEST
from msdm_kit.core.images import to_uint8
from msdm_kit.core.sample import Sample
from msdm_kit.plugins.importers.base import Content
from msdm_kit.plugins.importers.writing import write_field
from msdm_kit.plugins.instances import InstanceFile
from msdm_kit.plugins.parallel import ordered_map

from .timing import head, machine, row

KINDS = ("nucleus", "cell")
COLUMNS = ("split", "assay", "slide")
LARGE = 120
"""Pixels of a nucleus above which its class is another."""
# The peak is that of VmHWM where there is one: of getrusage, Linux lets a process inherit its parent's.
PROBE = """\
import json, resource, sys
from pathlib import Path
from msdm_kit.cli.main import run
code = run(sys.argv[1:])
unit = 2**20 if sys.platform == "darwin" else 2**10
who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
used = [resource.getrusage(each) for each in who]
own, worker = (each.ru_maxrss / unit for each in used)
cpu = sum(each.ru_utime + each.ru_stime for each in used)
status = Path("/proc/self/status")
for line in status.read_text().splitlines() if status.exists() else ():
    if line.startswith("VmHWM"):
        own = int(line.split()[1]) / 2**10
print(json.dumps([code, cpu, own, worker]))
"""


@cache
def sources() -> list[Sample]:
    """The built-in fields, read once in a process."""
    dataset = FieldDataset(data_folder("histology-nuclei"), masks=KINDS)
    return [dataset[i] for i in range(len(dataset))]


def write_crop(folder: Path, side: int, number: int) -> tuple[dict[str, str], dict[str, dict[int, str]]]:
    """Write a crop with at least one nucleus, and give its row of the manifest and its classes."""
    rng = np.random.default_rng(number)
    while True:
        source = sources()[rng.integers(len(sources()))]
        top, left = (rng.integers(extent - side + 1) for extent in source.size)
        crop = np.s_[top : top + side, left : left + side]
        if source.masks["nucleus"][crop].any():
            break
    id = f"field_{number:06d}"
    masks = {kind: source.masks[kind][crop].astype(np.int64) for kind in KINDS}
    areas = np.bincount(masks["nucleus"].ravel())
    names = {int(k): "large" if areas[k] > LARGE else "small" for k in np.flatnonzero(areas) if k}
    content = Content(to_uint8(source.image[:, *crop]), masks, {"nucleus": names})
    written = write_field(folder, id, content, id)
    return {"id": id, **{name: source.metadata[name] for name in COLUMNS}}, written.classes


def write_set(folder: Path, fields: int, side: int, workers: int) -> None:
    """Write a data set of crops of side x side pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        open(folder / MANIFEST, "w", encoding="utf-8", newline="") as handle,
        InstanceFile(folder) as instances,
    ):
        writer = csv.DictWriter(handle, ["id", *COLUMNS], lineterminator="\n")
        writer.writeheader()
        for row_, classes in ordered_map(partial(write_crop, folder, side), range(fields), workers):
            writer.writerow(row_)
            instances.add(row_["id"], classes)


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


def measure(folder: Path, words: Sequence[str]) -> tuple[float, float, float, float]:
    """Run ``msdm-kit data WORDS`` in a process of its own.

    Returns
    -------
    seconds, cpu, own, worker : float
        From its start to its end; seconds of cores, of it and of what it started; peak resident MiB of it,
        and of the largest process that it started.

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
    code, cpu, own, worker = json.loads(done.stdout.splitlines()[-1])
    if code > (words[0] == "check"):
        sys.exit(f"msdm-kit data {' '.join(words)} ended with status {code}")
    return seconds, cpu, own, worker


def compare(folder: Path, command: Command, fields: int, counts: Sequence[int]) -> None:
    """Print a row: with each number of processes, or with one where the command takes no number."""
    cells = []
    for count in counts if command.parallel else (1,):
        if command.out is not None:
            shutil.rmtree(folder / command.out, ignore_errors=True)
        several = ("--workers", str(count)) if command.parallel else ()
        seconds, cpu, own, worker = measure(folder, [*command.words, *several])
        memory = own + (count * worker if count > 1 else 0)
        cells += [f"{fields / seconds:.0f}", f"{fields / cpu:.0f}", f"{memory:.0f}"]
    row(f"`data {command.words[0]}`", *cells, *("" for _ in range(3 * len(counts) - len(cells))))


def titles(count: int) -> tuple[str, ...]:
    """The columns of so many processes."""
    return f"fields/s, {count} process{'es' if count > 1 else ''}", "per CPU second", "at most, MiB"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fields", type=int, default=2000)
    parser.add_argument("--side", type=int, default=96, help="pixels")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="default: all cores")
    parser.add_argument("--all-cores", action="store_true", help="leave out the runs with one process")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="commands; those that they read from too")
    parser.add_argument("--folder", type=Path, help="scratch space; default: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(scratch)
        began = time.perf_counter()
        write_set(folder / "set", args.fields, args.side, args.workers)
        took = time.perf_counter() - began
        what = f"{args.fields} fields of {args.side} x {args.side} pixels"
        print(f"{machine()}; {what}, made in {took:.0f} s\n")
        counts = (args.workers,) if args.all_cores else (1, args.workers)
        head("command", *(title for count in counts for title in titles(count)))
        for command in commands(args.fields, args.side):
            if not args.only or command.words[0] in args.only:
                compare(folder, command, args.fields, counts)


if __name__ == "__main__":
    main()
