"""A training run that is killed again and again, beside one that is not."""

import json
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msdm_kit import Recipe, load_recipe, train
from msdm_kit.core.checkpoint import load_facts, load_tensors
from msdm_kit.core.images import save_image, save_labels
from msdm_kit.core.manifest import write_manifest
from msdm_kit.plugins.checkpoints import PARTS
from msdm_kit.plugins.run import Run

from .job import (
    DONE,
    INTERRUPTED,
    MISTAKE,
    Ended,
    child_killed,
    killed_at_operation,
    operations,
    signalled,
    undisturbed,
)

SETTINGS = [
    "backbone={channels: 8, multipliers: [1, 2], blocks: 1, head_channels: 8, groups: 4, dropout: 0.1}",
    "injectors.0.hidden=8",
    "data.crop=32",
    "train={steps: 6, batch: 1, accumulate: 2, warmup: 1, lr: 5e-4, decay: cosine, workers: 0}",
    "train.checkpointing=false",
    "train={validate_every: 2, preview_every: 3, save_every: 1, precision: bf16}",
    "sample.steps=2",
]
KILLS = 4
"""How often one run is cut, before it is let to its end."""
FIELDS, SIDE = 6, 40


@dataclass
class Result:
    """What became of the runs that one kind of fault was put into.

    Attributes
    ----------
    points : int
        Faults that met the run, not counting those that came after its end.
    survived : int
        Of them, those after which all files of the run were whole.
    runs : int
        That went on to their end.
    wrong : list of str
        Where such a run differs from one that nothing happened to.
    """

    points: int = 0
    survived: int = 0
    runs: int = 0
    wrong: list[str] = field(default_factory=list)


class Training:
    """A toy data set and recipe, and the run that nothing happens to.

    Parameters
    ----------
    folder : Path
        New; for data, runs and logs.
    clock : callable () -> float
        Seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self.folder = folder
        self.log = folder / "log.txt"
        self.data = write_data(folder / "data")
        self.recipe = load_recipe("quickstart", SETTINGS)
        self.whole = Run(folder / "whole")
        self.operations = operations(self._work(Run(folder / "counted"), self.recipe), self.log)
        began = clock()
        self._check(undisturbed(self._work(self.whole, self.recipe), self.log), DONE)
        self.seconds = clock() - began

    def _work(self, run: Run, recipe: Recipe) -> Callable[[], Path]:
        resume = run.folder.exists()
        return partial(train, recipe, self.data, run.folder, resume=resume, device="cpu")

    def _check(self, ended: Ended, *statuses: int) -> None:
        if ended.status not in statuses:
            raise SystemExit(f"a run ended with status {ended.status}:\n{ended.said}")

    def try_out(self, kind: str, points: int, seed: int) -> Result:
        """Put so many faults of a kind into runs, let each go on to its end, and compare.

        Parameters
        ----------
        kind : str
            Of `KINDS`.
        points : int
        seed : int
        """
        rng, result = random.Random(f"{seed} {kind}"), Result()
        recipe = self.recipe
        if kind == WORKER_KILLED:
            recipe = load_recipe("quickstart", [*SETTINGS, "train.workers=1"])
        while result.points < points:
            run = Run(self.folder / f"{kind.replace(' ', '-')}-{result.runs}")
            for _ in range(min(KILLS, points - result.points)):
                ended = KINDS[kind](self, self._work(run, recipe), rng)
                if ended.status == DONE:
                    break
                self._check(ended, MISTAKE if kind == WORKER_KILLED else -signal.SIGKILL, INTERRUPTED)
                if kind == "bits flipped":
                    flip(run, rng)
                result.points += 1
                broken = damage(run, newest=kind != "bits flipped")
                result.survived += not broken
                result.wrong += broken
            self._check(undisturbed(self._work(run, recipe), self.log), DONE)
            result.runs += 1
            result.wrong += differences(self.whole, run)
        return result


def _killed(at: Training, work: Callable[[], Path], rng: random.Random) -> Ended:
    return signalled(work, at.log, signal.SIGKILL, rng.uniform(0, at.seconds))


def _killed_at_operation(at: Training, work: Callable[[], Path], rng: random.Random) -> Ended:
    return killed_at_operation(work, at.log, rng.randrange(2 * at.operations))


def _terminated(at: Training, work: Callable[[], Path], rng: random.Random) -> Ended:
    # before it trains, a run has nothing to save, and the signal ends it
    number = rng.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
    ended = signalled(work, at.log, number, rng.uniform(0, at.seconds))
    return Ended(INTERRUPTED, ended.said) if ended.status == -number else ended


def _worker_killed(at: Training, work: Callable[[], Path], rng: random.Random) -> Ended:
    return child_killed(work, at.log, rng.uniform(0, at.seconds), rng)


WORKER_KILLED = "loader process killed"
KINDS: dict[str, Callable[[Training, Callable[[], Path], random.Random], Ended]] = {
    "SIGKILL at any moment": _killed,
    "SIGKILL at a file operation": _killed_at_operation,
    "SIGTERM, SIGUSR1 or SIGINT": _terminated,
    WORKER_KILLED: _worker_killed,
    "bits flipped": _killed,
}
"""What may happen to a run; ``bits flipped`` is in its newest checkpoint, after a SIGKILL."""


def write_data(folder: Path) -> Path:
    """Fields of two cells each, one of them for validation."""
    rows = []
    for i in range(FIELDS):
        rng, id = np.random.default_rng(i), f"f{i}"
        y, x = np.mgrid[:SIDE, :SIDE]
        cells, nuclei = np.zeros((2, SIDE, SIDE), np.int32)
        for k in (1, 2):
            centre = np.array([SIDE / 2, SIDE * k / 3]) + rng.uniform(-2, 2, 2)
            distance = np.hypot(y - centre[0], x - centre[1])
            cells[distance < SIDE / 7], nuclei[distance < SIDE / 12] = k, k
        image = np.stack([0.8 - 0.4 * (cells > 0), 0.7 - 0.8 * (nuclei > 0), 0.8 - 0.1 * (cells > 0)])
        image = np.clip(image + 0.05 * rng.standard_normal(image.shape), -1, 1).astype(np.float32)
        save_image(folder / "images" / f"{id}.png", image)
        save_labels(folder / "cells" / f"{id}.png", cells)
        save_labels(folder / "nuclei" / f"{id}.png", nuclei)
        split = "val" if i == FIELDS - 1 else "train"
        rows.append({"id": id, "assay": f"stain {i % 2}", "indication": f"organ {i % 3}", "split": split})
    write_manifest(folder / "metadata.csv", rows)
    return folder


def flip(run: Run, rng: random.Random) -> None:
    """Turn one bit of the newest checkpoint over, where there is one before it to go on from."""
    steps = run.checkpoints.steps
    if len(steps) > 1:
        path = run.checkpoints.path(steps[-1])
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)


def damage(run: Run, *, newest: bool = True) -> list[str]:
    """What of a run's files is not whole, after whatever has happened to it.

    Parameters
    ----------
    run : Run
    newest : bool
        Whether the newest checkpoint is to be whole as well.
    """
    steps = run.checkpoints.steps
    weights = [path for path in (run.weights, run.best_weights) if path.exists()]
    broken = []
    whole = {str(path): partial(load_tensors, path, sealed=True) for path in weights}
    whole |= {f"step {s}": partial(run.checkpoints.load, s) for s in (steps if newest else steps[:-1])}
    for what, load in whole.items():
        try:
            load()
        except Exception as error:
            broken.append(f"{run.folder}, {what}: {error}")
    for path in weights:
        if (load_facts(path) or {}).get("step") not in steps:
            broken.append(f"{path} is of no checkpoint among {steps}")
    return broken


WEIGHTS = ("weights", "best")


def _read(run: Run) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
    """Tensors and facts of the newest checkpoint, of the weights, and of the best ones."""
    newest = run.checkpoints.load(run.checkpoints.steps[-1])
    return [(newest.whole(), newest.facts), load_tensors(run.weights), load_tensors(run.best_weights)]


def differences(whole: Run, run: Run) -> list[str]:
    """How the files of two runs that have ended differ; seconds may."""
    found = damage(run)
    for file, (ours, facts), (theirs, others) in zip(
        ("checkpoint", *WEIGHTS), _read(whole), _read(run), strict=True
    ):
        names = ours.keys() | theirs.keys()
        found += [
            f"{run.folder}, {file}: {name}"
            for name in sorted(names)
            if name not in ours or name not in theirs or not torch.equal(ours[name], theirs[name])
        ]
        found += [
            f"{run.folder}, {file}: {name}"
            for name in facts
            if name not in ("recipe", PARTS) and facts[name] != others.get(name)
        ]
    rows = [
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in r.metrics.open()]
        for r in (whole, run)
    ]
    if rows[0] != rows[1]:
        found.append(f"{run.metrics}: {len(rows[1])} rows for {len(rows[0])}, or others")
    pictures = [{p.name: p.read_bytes() for p in r.previews.glob("*")} for r in (whole, run)]
    if pictures[0] != pictures[1]:
        found.append(f"{run.previews}: other pictures")
    found += [f"{path} is left" for path in run.folder.rglob("*.tmp")]
    return found
