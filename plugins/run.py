"""The folder of a run: what is in it, and what may be done with it."""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from ..core.checkpoint import DamagedFile, load_facts, load_tensors, save_tensors
from ..core.denoiser import Denoiser
from ..core.errors import MsdmError
from ..core.files import claimed, make_folder, remove, remove_temporary, write_text
from ..core.processes import ALONE, Processes
from ..core.reading import read_bytes
from ..core.recipe import Recipe, TrainSection
from .build import collect_facts
from .checkpoints import PARTS, Checkpoints, State
from .needs import check_needs, needs
from .recipe_files import differences, dump_recipe
from .recipe_schema import one_line

_FREE = (
    "train.checkpointing",
    "train.sharding",
    "train.workers",
    "train.validate_every",
    "train.preview_every",
    "train.save_every",
    "train.keep_*",
    "train.loggers*",
    "sample.*",
)
"""Settings that do not change the weights: a run may be resumed with others."""
_PASSES = ("train.batch", "train.accumulate")
"""Free as well where their product stays: a step is of the same crops and noise, and rounds otherwise."""
_LENGTH = ("train.steps", "train.epochs")
"""Free as well where the learning rate does not follow the length."""
MOST_METRICS = 2**30
"""Bytes."""
_GONE_ON_WITH = ("fields", "conditioners", "due", "validation", "ema_updates")
"""Facts of a checkpoint that training goes on with."""
_LEGAL: dict[str, Callable[[Any], bool]] = {
    "conditioners": lambda facts: isinstance(facts, dict),
    "due": lambda due: isinstance(due, list) and all(isinstance(what, str) for what in due),
    "validation": lambda loss: loss is None or type(loss) is float,
    "ema_updates": lambda count: type(count) is int and 0 <= count < 2**53,
}
"""Whether such a fact may be a run's: it is not trusted."""
_CHECKPOINT = ("ema_updates", "due", PARTS)
"""Facts of a checkpoint that its weights alone do without."""


@dataclass(frozen=True)
class Run:
    """Paths of a run's folder."""

    folder: Path

    @property
    def recipe_file(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def weights(self) -> Path:
        """Averaged weights, with the recipe and the conditioners' facts: all that sampling needs."""
        return self.folder / "weights.safetensors"

    @property
    def best_weights(self) -> Path:
        """As `weights`, of the checkpoint with the lowest validation loss."""
        return self.folder / "best.safetensors"

    @property
    def checkpoints(self) -> Checkpoints:
        """All that going on needs."""
        return Checkpoints(self.folder / "checkpoints")

    @property
    def metrics(self) -> Path:
        """One JSON object per line."""
        return self.folder / "metrics.jsonl"

    @property
    def loggers(self) -> Path:
        """A folder of each logger that the recipe names."""
        return self.folder / "loggers"

    @property
    def previews(self) -> Path:
        return self.folder / "previews"

    def preview(self, step: int) -> Path:
        return self.previews / f"step-{step:06d}.png"

    def _taken(self) -> bool:
        """Whether the folder holds more than a run that ended before it was first saved."""
        if not self.folder.is_dir():
            return self.folder.exists()
        begun = {self.recipe_file, self.metrics, self.loggers, self.previews, self.checkpoints.folder}
        others = {path for path in self.folder.iterdir() if path.suffix != ".tmp"} - begun
        return bool(others or self.checkpoints.steps)

    def claim(self, recipe: Recipe, *, resume: bool) -> State | None:
        """Check that the folder may be used; when resuming, what the run goes on from.

        That is None for a run that ended before it was first saved: it begins anew. A run is resumed by its
        own recipe; settings that do not change the weights (loader processes, how often to save and validate,
        defaults of sampling) may be others, and under a constant learning rate so may the length.

        Raises
        ------
        MsdmError
            A run is there and `resume` is false; none is there, or one of another recipe, or all of its
            checkpoints are damaged, and it is true.
        """
        if not resume:
            if self._taken():
                if not self.folder.is_dir():
                    raise MsdmError(f"{self.folder} is a file, not a folder; choose another --out")
                what = "holds a run" if self.checkpoints.steps else "is not empty"
                raise MsdmError(
                    f"{self.folder} {what}; add --resume to go on with a run, or choose another --out"
                )
            return None
        found = self.checkpoints.newest()
        if found is None:
            if self._taken() or not self.folder.is_dir():
                raise MsdmError(
                    f"{self.folder} holds no checkpoint to resume; leave --resume out to start a run"
                )
            return None
        path = self.checkpoints.path(found.step)
        check_needs(found.facts, str(path))
        saved = saved_recipe(found.facts, path)
        free = _FREE + (_LENGTH if recipe.train.decay == saved.train.decay == "constant" else ())
        if recipe.train.batch * recipe.train.accumulate == saved.train.batch * saved.train.accumulate:
            free += _PASSES
        changed = [
            line
            for line in differences(saved, recipe)
            if not any(fnmatchcase(line.partition(": ")[0], pattern) for pattern in free)
        ]
        if changed:
            more = f" (+{len(changed) - 1} more)" if len(changed) > 1 else ""
            raise MsdmError(
                f"{self.folder} is a run of another recipe: {changed[0]}{more}; resume with the recipe in "
                f"{self.recipe_file}, or choose another --out"
            )
        if lacking := [name for name in _GONE_ON_WITH if name not in found.facts]:
            raise MsdmError(
                f"{path} lacks {', '.join(lacking)}, and cannot be gone on with; train into a new folder"
            )
        if odd := [name for name, legal in _LEGAL.items() if not legal(found.facts[name])]:
            raise MsdmError(
                f"{path}: its {odd[0]} is {str(found.facts[odd[0]])!r:.40}, which no run writes; train into "
                f"a new folder"
            )
        return found

    @contextmanager
    def held(self, steps: Sequence[int]) -> Iterator[None]:
        """Keep other processes from training into the folder, which is made; it was claimed before.

        Parameters
        ----------
        steps : sequence of int
            Of the checkpoints that were there when it was claimed.

        Raises
        ------
        MsdmError
            Another process trains into it, or has done so since, or it cannot be made.
        """
        new = not self.folder.exists()
        make_folder(self.folder)
        try:
            with claimed(self.folder, f"training into {self.folder}"):
                if self.checkpoints.steps != list(steps):
                    raise MsdmError(
                        f"another process has just trained into {self.folder}; go on with --resume, or "
                        f"choose another --out"
                    )
                yield
        except BaseException:
            if new and not any(self.folder.iterdir()):  # it failed before it wrote anything
                self.folder.rmdir()
            raise

    def start(self, recipe: Recipe, done: int = 0, due: Collection[str] = ()) -> None:
        """Write the resolved recipe, making the folder if need be, and forget what is later than step `done`.

        A run that was killed has metrics and previews of steps that its checkpoint does not know, and maybe
        of what it has as `due` at its own step; they will come again.
        """
        write_text(self.recipe_file, dump_recipe(recipe))
        if self.metrics.exists():
            lines = self._metrics().splitlines(keepends=True)
            kept = [line for line in lines if _belongs(line, done, due)]
            if kept != lines:
                write_text(self.metrics, "".join(kept))
        for path in self.previews.glob("step-*.png"):
            step = path.stem.removeprefix("step-")
            if step.isdecimal() and int(step) > done:
                remove(path)
        for folder in (self.folder, self.previews, self.checkpoints.folder):
            remove_temporary(folder)
        self.checkpoints.tidy()

    def save(
        self,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        section: TrainSection,
        here: Processes = ALONE,
    ) -> None:
        """Write the checkpoint that training goes on from, then the weights of it that sampling reads.

        Only then are older checkpoints deleted: whenever the process ends, the newest checkpoint is whole,
        and the weights are those of a checkpoint that is there. Where tensors are split, all processes call
        it; otherwise the leader alone.

        Parameters
        ----------
        tensors : mapping name -> Tensor
            As `Optimiser.state` gives them.
        facts : mapping
            Those of `Optimiser.state` and of `run_facts`, and more.
        section : TrainSection
            For how many checkpoints are kept.
        here : Processes

        Raises
        ------
        MsdmError
            A number is not finite, or a file cannot be written; the checkpoint before is as it was.
        """
        if here.leads and self.metrics.exists():
            # what the checkpoint knows must be on the disc before it
            with self.metrics.open("rb") as f:
                os.fsync(f.fileno())
        state = self.checkpoints.save(tensors, facts, here)
        if not here.leads:
            return
        self.write_weights(state, section)
        self.checkpoints.prune(int(facts["step"]), last=section.keep_last, best=section.keep_best)

    def write_weights(self, state: State, section: TrainSection, *, doubt: bool = False) -> None:
        """Write the weights of a checkpoint, and those of the best one where they are not there.

        Parameters
        ----------
        state : State
        section : TrainSection
            For whether there are best ones.
        doubt : bool
            Whether those that are there may be damaged, and are read in full to know it.
        """
        _write_weights(self.weights, state)
        if section.keep_best == 0:
            return
        there = _facts(self.best_weights, doubt=doubt)
        # later ones are of a run that went on from an earlier checkpoint, as they are damaged
        for step in (step for step in self.checkpoints.best() if step <= state.step):
            if there.get("step") == step:
                return
            with suppress(DamagedFile):
                best = state if step == state.step else self.checkpoints.load(step)
                return _write_weights(self.best_weights, best)

    def log(self, **values: Any) -> None:
        """Add a line to the metrics.

        Raises
        ------
        MsdmError
            It cannot be written.
        """
        try:
            with self.metrics.open("a", encoding="utf-8") as f:
                f.write(json.dumps(values) + "\n")
        except OSError as error:
            raise MsdmError(f"cannot write {self.metrics}: {error}; check the space on the disc") from error

    def seconds(self) -> float:
        """Seconds of training that the metrics account for, pauses between resumes left out."""
        if not self.metrics.exists():
            return 0.0
        return max(map(_seconds, self._metrics().splitlines()), default=0.0)

    def _metrics(self) -> str:
        """The text of the metrics; what is no UTF-8 makes its line one that is not read."""
        try:
            return read_bytes(self.metrics, MOST_METRICS).decode("utf-8", "replace")
        except OSError as error:
            raise MsdmError(f"cannot read {self.metrics}: {error.strerror}; move it away") from None


def _facts(path: Path, *, doubt: bool) -> Mapping[str, Any]:
    """Of weights that are there and, where they are in doubt, whole."""
    if not doubt:
        return load_facts(path) or {}
    with suppress(MsdmError):
        return load_tensors(path, sealed=True)[1]
    return {}


def _seconds(line: str) -> float:
    """Of a line of metrics; 0 where it says none, or a crash has cut it."""
    try:
        seconds = float(json.loads(line)["seconds"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return 0.0
    return seconds if 0 < seconds < float("inf") else 0.0


def _belongs(line: str, done: int, due: Collection[str]) -> bool:
    """Whether a line of metrics is of what was done by step `done`; not where a crash has cut it."""
    try:
        values = json.loads(line)
        step = float(values["step"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return False
    return line.endswith("\n") and (step < done or (step == done and not set(due) & set(values)))


def _write_weights(path: Path, state: State) -> None:
    facts = {name: value for name, value in state.facts.items() if name not in _CHECKPOINT}
    save_tensors(path, state.averaged(), facts)


def run_facts(recipe: Recipe, denoiser: Denoiser, step: int) -> dict[str, Any]:
    """What weights carry: recipe, plugins that it needs with their packages, facts, optimiser steps."""
    return {
        "recipe": recipe.model_dump(mode="json", by_alias=True),
        "plugins": needs(recipe),
        "conditioners": collect_facts(denoiser.by_name),
        "autoencoder": denoiser.autoencoder.fingerprint if recipe.autoencoder is not None else None,
        "step": step,
    }


def saved_recipe(facts: Mapping[str, Any], path: Path) -> Recipe:
    """The recipe that a weights file or checkpoint carries.

    Raises
    ------
    MsdmError
        It carries none that this version can read.
    """
    try:
        return Recipe.model_validate(facts.get("recipe"))
    except ValidationError as error:
        raise MsdmError(
            f"{path}: its recipe is not one of this version: {one_line(error, Recipe)}; use the version of "
            f"msdm-kit that wrote it"
        ) from None
