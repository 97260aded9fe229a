"""A sampling job that is killed again and again, beside one that is not.

    python -m benchmarks.faults.sampling [--points 40] [--kinds NAME ...] [--seed 0]

Prints, for every kind of fault, how often it met a job, after how many of those every pair that had been told
as painted was there and whole, how many pairs were lost, how many jobs went on to their end, and in how many
files these differ, to the byte, from a job that nothing happened to. With a difference or a loss it names
them and ends with status 1.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import torch

from msdm_kit import load_recipe, train
from msdm_kit.core import files
from msdm_kit.core.fields import MANIFEST
from msdm_kit.core.journal import read_journal
from msdm_kit.plugins.filtering import Thresholds
from msdm_kit.plugins.painting import paint
from msdm_kit.plugins.recombination import Recombination
from msdm_kit.plugins.sampling.events import Painted
from msdm_kit.plugins.sampling.pair_folder import rejected_folder
from msdm_kit.plugins.sampling.recovery import Remains

from ..timing import head, row
from .job import DONE, INTERRUPTED, Ended, killed_at_operation, operations, signalled, undisturbed
from .training import KILLS, Result, write_data

RECIPE = """\
name: tiny
data: {masks: [cell, nucleus], crop: 32}
conditioners:
  morphology: {type: hv_maps, masks: [nucleus], drop: 0.1}
  colour: {type: rgb_statistics, masks: [nucleus]}
injectors:
  - {type: spade, from: [morphology, colour], at: [middle, decoder], hidden: 4}
backbone:
  {type: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention_strides: [],
   head_channels: 8, groups: 4}
train: {steps: 1, batch: 2, workers: 0, precision: fp32}
sample: {steps: 1, precision: fp32}
"""
TOLD = "painted "
"""How a line begins that tells a pair which is on the disc."""
KINDS_OF_MASKS = ("cell", "nucleus")


class Sampling:
    """A toy data set and run, and the job that nothing happens to: it keeps some paintings, rejects others.

    Parameters
    ----------
    folder : Path
        New; for data, run, jobs and logs.
    clock : callable () -> float
        Seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self.folder, self.log = folder, folder / "log.txt"
        self.data = write_data(folder / "data")
        (folder / "tiny.yaml").write_text(RECIPE)
        recipe = load_recipe(str(folder / "tiny.yaml"))
        # here and not in a child: what is imported is so for all of them
        train(recipe, self.data, folder / "run", device="cpu")
        self.bound = 0.0
        self.work(folder / "all")()
        found = sorted(float(r["mask_adherence"]) for r in read_journal(folder / "all" / MANIFEST))
        self.bound = (found[len(found) // 2 - 1] + found[len(found) // 2]) / 2
        self.whole = folder / "whole"
        began = clock()
        self._done(self.work(self.whole))
        self.seconds = clock() - began
        self.operations = operations(self.work(folder / "counted"), self.log)

    def work(self, out: Path) -> Callable[[], None]:
        """The job in a folder."""

        def tell(event: object) -> None:
            if isinstance(event, Painted):
                print(f"{TOLD}{event.id}", flush=True)

        def act() -> None:
            paint(
                self.folder / "run", self.data, out, n=6, split="all", tries=2, device="cpu", listener=tell,
                thresholds=Thresholds(self.bound), recombination=Recombination(frozenset({"appearance"})),
            )  # fmt: skip

        return act

    def _done(self, work: Callable[[], object]) -> None:
        ended = undisturbed(work, self.log)
        if ended.status != DONE:
            raise SystemExit(f"a job ended with status {ended.status}:\n{ended.said}")

    def try_out(self, kind: str, points: int, seed: int) -> tuple[Result, int]:
        """Put so many faults of a kind into jobs, let each go on to its end, and compare.

        Returns
        -------
        Result
        int
            Pairs that were told and are not there.
        """
        rng, result, lost = random.Random(f"{seed} {kind}"), Result(), 0
        while result.points < points:
            out = self.folder / f"{kind.replace(' ', '-')}-{result.runs}"
            told = 0
            for _ in range(min(KILLS, points - result.points)):
                ended = KINDS[kind](self, self.work(out), rng)
                if ended.status == DONE:
                    break
                if ended.status not in (-signal.SIGKILL, INTERRUPTED):
                    raise SystemExit(f"a job ended with status {ended.status}:\n{ended.said}")
                result.points += 1
                told += ended.said.count(TOLD)
                left = [Remains(folder, KINDS_OF_MASKS) for folder in (out, rejected_folder(out))]
                gone = max(0, told - sum(len(one.rows) for one in left)) + sum(one.lost for one in left)
                lost += gone
                result.survived += not gone
            self._done(self.work(out))
            result.runs += 1
            result.wrong += differences(self.whole, out)
        return result, lost


def differences(whole: Path, out: Path) -> list[str]:
    """The files in which two jobs differ, but for the report, which says when it was made."""
    trees = []
    for one in (whole, out):
        folders = {"": one, "rejected/": rejected_folder(one)}
        trees.append(
            {
                f"{name}{path.relative_to(folder)}": path.read_bytes()
                for name, folder in folders.items()
                for path in folder.rglob("*")
                if path.is_file() and path.name != "report.html"
            }
        )
    names = trees[0].keys() | trees[1].keys()
    return [f"{out}: {name}" for name in sorted(names) if trees[0].get(name) != trees[1].get(name)]


def _killed(at: Sampling, work: Callable[[], None], rng: random.Random) -> Ended:
    return signalled(work, at.log, signal.SIGKILL, rng.uniform(0, at.seconds))


def _killed_at_operation(at: Sampling, work: Callable[[], None], rng: random.Random) -> Ended:
    return killed_at_operation(work, at.log, rng.randrange(2 * at.operations))


def _killed_in_a_row(at: Sampling, work: Callable[[], None], rng: random.Random) -> Ended:
    """Killed while something is appended, of which a part is written."""
    number, share = rng.randrange(1, 13), rng.random()
    append = files.AppendedFile.append

    def act() -> None:
        done = 0

        def half(self: files.AppendedFile, data: bytes) -> None:
            nonlocal done
            done += 1
            if done == number:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab") as handle:
                    handle.write(data[: int(share * len(data))])
                os.kill(os.getpid(), signal.SIGKILL)
            append(self, data)

        files.AppendedFile.append = half  # type: ignore[method-assign]
        work()

    return undisturbed(act, at.log)


def _terminated(at: Sampling, work: Callable[[], None], rng: random.Random) -> Ended:
    # before it paints, a job has nothing to clean up, and the signal ends it
    number = rng.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
    ended = signalled(work, at.log, number, rng.uniform(0, at.seconds))
    return Ended(INTERRUPTED, ended.said) if ended.status == -number else ended


KINDS: dict[str, Callable[[Sampling, Callable[[], None], random.Random], Ended]] = {
    "SIGKILL at any moment": _killed,
    "SIGKILL at a file operation": _killed_at_operation,
    "SIGKILL within a row": _killed_in_a_row,
    "SIGTERM, SIGUSR1 or SIGINT": _terminated,
}
"""What may happen to a job."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="faults.sampling", description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=40, help="faults of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sampling = Sampling(Path(folder), time.monotonic)
        print(f"one job: {sampling.seconds:.1f} s, {sampling.operations} file operations\n")
        head("fault", "points", "survived", "pairs lost", "jobs to the end", "differences")
        wrong = []
        for kind in args.kinds:
            found, lost = sampling.try_out(kind, args.points, args.seed)
            row(kind, found.points, found.survived, lost, found.runs, len(found.wrong))
            wrong += [*found.wrong, *([f"{kind}: {lost} pairs lost"] if lost else [])]
        print("\n".join(["", *wrong]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
