"""Faults around a run or a sampling job: its disc, its clock, its data, its other processes.

    python -m benchmarks.faults.surroundings [--points 10] [--ranks 3] [--kinds NAME ...] [--seed 0]

As `benchmarks.faults`: each fault meets a training run and a sampling job, which then go on to their ends and
are compared with those that nothing happened to. `--points` is for each kind; `--ranks` for those where
`torchrun` starts two processes, of which one is killed. Discs are small tmpfs, which takes root on Linux.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partialmethod
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import torch

from msdm_kit.core.dataset import FieldDataset
from msdm_kit.plugins.recipe_files import dump_recipe
from msdm_kit.plugins.run import Run
from msdm_kit.plugins.sampling.pair_folder import rejected_folder
from msdm_kit.plugins.sampling.recovery import Remains

from ..timing import head, row
from . import sampling, training
from .job import DONE, INTERRUPTED, MISTAKE, Ended, Work, end, signalled, start, undisturbed

ENDS = {DONE, MISTAKE, INTERRUPTED, -signal.SIGKILL}
"""How work may end; a mistake is told in one line."""
ROOM = 256
"""MiB of a tmpfs that is large enough."""


@dataclass
class Subject:
    """What faults are tried out on: a training run or a sampling job."""

    name: str
    log: Path
    seconds: float
    data: Path
    work: Callable[[Path], Work]
    damage: Callable[[Path], list[str]]
    differences: Callable[[Path, Path], list[str]]
    command: Callable[[Path], list[str]]

    @property
    def whole(self) -> Path:
        """What nothing happened to."""
        return self.log.with_name("whole")

    @cached_property
    def two(self) -> tuple[Path, float]:
        """What two processes made to which nothing happened, and their seconds."""
        out, began = self.log.with_name("whole-of-two"), time.monotonic()
        ended = end(_torchrun(self, out), self.log)
        if ended.status != DONE:
            raise SystemExit(f"two processes ended with status {ended.status}:\n{ended.said}")
        return out, time.monotonic() - began


def subjects(folder: Path) -> list[Subject]:
    """A toy training run and a toy sampling job, and those that nothing happens to."""
    trained = training.Training(folder / "training", time.monotonic)
    painted = sampling.Sampling(folder / "sampling", time.monotonic)
    (folder / "toy.yaml").write_text(dump_recipe(trained.recipe))

    def unfinished(out: Path) -> list[str]:
        left = [Remains(f, sampling.KINDS_OF_MASKS) for f in (out, rejected_folder(out))]
        return [f"{out}: {one.lost} pairs lost" for one in left if one.lost]

    return [
        Subject(
            "training", trained.log, trained.seconds, trained.data,
            lambda out: trained._work(Run(out), trained.recipe),
            lambda out: training.damage(Run(out)),
            lambda whole, out: training.differences(Run(whole), Run(out)),
            lambda out: ["train", str(folder / "toy.yaml"), "--data", str(trained.data), "--out", str(out)],
        ),
        Subject(
            "sampling", painted.log, painted.seconds, painted.data,
            painted.work,
            unfinished,
            sampling.differences,
            lambda out: ["sample", str(painted.folder / "run"), "--data", str(painted.data), "--split", "all",
                         "--out", str(out)],
        ),
    ]  # fmt: skip


def split(training: Subject, folder: Path) -> Subject:
    """The training run, its weights split among processes."""
    folder.mkdir()
    return replace(
        training,
        name="training, weights split",
        log=folder / "log.txt",
        command=lambda out: [*training.command(out), "--set", "train.sharding=full"],
    )


@contextmanager
def disc(at: Path, mib: float) -> Iterator[Callable[[str], None]]:
    """A tmpfs; what is yielded mounts it again with other options."""
    at.mkdir()
    kib = int(mib * 1024)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", at], check=True)

    def again(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", at], check=True)

    try:
        yield again
    finally:
        subprocess.run(["umount", "-l", at], check=True)


@dataclass(frozen=True)
class Outcome:
    """What a fault did: whether the work met it, what it broke, and what differs in the end."""

    met: bool
    broken: list[str]
    differences: list[str]


Fault = Callable[[Subject, Path, random.Random], Outcome]


def _outcome(subject: Subject, ended: Ended, out: Path, heal: Callable[[], object]) -> Outcome:
    """Look at what is left, mend the surroundings, and let the work go on to its end."""
    broken = subject.damage(out) if out.exists() else []
    errors = [line for line in ended.said.splitlines() if line.startswith("error: ")]
    if ended.status not in ENDS or (ended.status == MISTAKE and len(errors) != 1):
        broken.append(f"{out}: status {ended.status}: {ended.said[-2000:]}")
    heal()
    last = undisturbed(subject.work(out), subject.log)
    if last.status != DONE:
        broken.append(f"{out} did not go on: status {last.status}: {last.said[-2000:]}")
        return Outcome(True, broken, [])
    return Outcome(ended.status != DONE, broken, subject.differences(subject.whole, out))


def _full(subject: Subject, out: Path, rng: random.Random) -> Outcome:
    """The disc is too small, and then is not."""
    used = sum(p.stat().st_size for p in subject.whole.rglob("*") if p.is_file()) / 2**20
    with disc(out.parent, rng.uniform(0.02, 0.98) * used) as again:
        ended = undisturbed(subject.work(out), subject.log)
        return _outcome(subject, ended, out, lambda: again(f"size={ROOM}m"))


def _read_only(subject: Subject, out: Path, rng: random.Random) -> Outcome:
    """The disc becomes read-only at some moment, and then is not."""
    with disc(out.parent, ROOM) as again:
        pid = start(subject.work(out), subject.log)
        time.sleep(rng.uniform(0, subject.seconds))
        for _ in range(1000):
            try:
                again("ro")
                break
            except subprocess.CalledProcessError:  # a file is open for writing
                time.sleep(0.001)
        return _outcome(subject, end(pid, subject.log), out, lambda: again("rw"))


def _removed(subject: Subject, out: Path, rng: random.Random) -> Outcome:
    """A file of the data is gone from some moment on, and then is back."""
    out.parent.mkdir()
    path = rng.choice(sorted(p for p in subject.data.rglob("*") if p.is_file()))
    away = subject.data.with_name("away")
    made = FieldDataset.__init__

    def act() -> None:
        # as of a set that memory does not hold: each field is read whenever it comes
        FieldDataset.__init__ = partialmethod(made, budget=0)  # type: ignore[method-assign, assignment]
        subject.work(out)()

    pid = start(act, subject.log)
    time.sleep(rng.uniform(0, subject.seconds))
    path.rename(away)
    return _outcome(subject, end(pid, subject.log), out, lambda: away.rename(path))


def _clock(subject: Subject, out: Path, rng: random.Random) -> Outcome:
    """The clock jumps at every look, the work is killed, and its files bear any time."""
    out.parent.mkdir()
    now, jumps = time.time, random.Random(rng.random())

    def act() -> None:
        time.time = lambda: now() + jumps.uniform(-1e8, 1e8)
        subject.work(out)()

    def date() -> None:
        for path in out.rglob("*"):
            os.utime(path, (when := rng.uniform(0, 2e9), when))

    ended = signalled(act, subject.log, signal.SIGKILL, rng.uniform(0, subject.seconds))
    return _outcome(subject, ended, out, date)


def _rank(subject: Subject, out: Path, rng: random.Random) -> Outcome:
    """One of two processes is killed; torchrun starts both again, once."""
    whole, seconds = subject.two
    out.parent.mkdir()
    pid = _torchrun(subject, out)
    time.sleep(rng.uniform(0.3 * seconds, 0.95 * seconds))
    ranks = [rank for starter in _children(pid) for rank in _children(starter)]
    if ranks:
        os.kill(rng.choice(ranks), signal.SIGKILL)
    ended = end(pid, subject.log)
    broken = [f"{out}: status {ended.status}: {ended.said[-2000:]}"] if ended.status != DONE else []
    return Outcome(bool(ranks), broken, [] if broken else subject.differences(whole, out))


def _torchrun(subject: Subject, out: Path) -> int:
    words = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "--max-restarts", "1", "-m", "--", "msdm_kit", *subject.command(out), "--device", "cpu",
    ]  # fmt: skip
    return start(lambda: subprocess.run(words, check=True), subject.log)


def _children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


KINDS: dict[str, Fault] = {
    "disc full": _full,
    "disc read-only": _read_only,
    "file of the data removed": _removed,
    "clock and file times jump, SIGKILL": _clock,
    "one of two processes killed": _rank,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="faults.surroundings", description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=10, help="faults of each kind, for each of the two")
    parser.add_argument("--ranks", type=int, default=3, help="of those that torchrun starts")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = subjects(folder)
        head("fault", "of", "points", "met", "survived", "differences")
        for kind in args.kinds:
            for subject in [*found, split(found[0], folder / "split")] if KINDS[kind] is _rank else found:
                rng = random.Random(f"{args.seed} {kind} {subject.name}")
                outcomes = [
                    KINDS[kind](subject, folder / f"{subject.name} {kind} {point}" / "out", rng)
                    for point in range(args.ranks if KINDS[kind] is _rank else args.points)
                ]
                met, whole = sum(o.met for o in outcomes), sum(not o.broken for o in outcomes)
                row(kind, subject.name, len(outcomes), met, whole, sum(len(o.differences) for o in outcomes))
                wrong += [line for o in outcomes for line in (*o.broken, *o.differences)]
        print("\n".join(["", *wrong]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
