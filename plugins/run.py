"""The folder of a run: what is in it, and what may be done with it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..core.checkpoint import load_tensors, save_tensors
from ..core.denoiser import Denoiser
from ..core.errors import MsdmError
from ..core.files import write_text
from ..core.optimise import Optimiser
from ..core.recipe import Recipe
from .build import collect_facts
from .needs import check_needs, needs
from .recipe_files import differences, dump_recipe
from .recipe_schema import one_line

_FREE = (
    "train.checkpointing",
    "train.workers",
    "train.validate_every",
    "train.preview_every",
    "train.save_every",
    "train.loggers*",
    "sample.*",
)
"""Settings that do not change the weights: a run may be resumed with others."""
_LENGTH = ("train.steps", "train.epochs")
"""Free as well where the learning rate does not follow the length."""


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
    def checkpoint(self) -> Path:
        """All that going on needs."""
        return self.folder / "checkpoint.safetensors"

    @property
    def metrics(self) -> Path:
        """One JSON object per line."""
        return self.folder / "metrics.jsonl"

    @property
    def loggers(self) -> Path:
        """A folder of each logger that the recipe names."""
        return self.folder / "loggers"

    def preview(self, step: int) -> Path:
        return self.folder / "previews" / f"step-{step:06d}.png"

    def _taken(self) -> bool:
        """Whether the folder holds more than a run that ended before it was first saved."""
        if not self.folder.is_dir():
            return self.folder.exists()
        abandoned = {self.recipe_file.name, self.metrics.name, self.loggers.name}
        return any(path.name not in abandoned for path in self.folder.iterdir())

    def claim(self, recipe: Recipe, *, resume: bool) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Check that the folder may be used; when resuming, the saved tensors and facts.

        A run is resumed by its own recipe; settings that do not change the weights (loader processes, how
        often to save and validate, defaults of sampling) may be others, and under a constant learning rate
        so may the length.

        Raises
        ------
        MsdmError
            A run is there and `resume` is false; none is there, or one of another recipe, and it is true.
        """
        if not resume:
            if self._taken():
                if not self.folder.is_dir():
                    raise MsdmError(f"{self.folder} is a file, not a folder; choose another --out")
                what = "holds a run" if self.checkpoint.exists() else "is not empty"
                raise MsdmError(
                    f"{self.folder} {what}; add --resume to go on with a run, or choose another --out"
                )
            return None
        if not self.checkpoint.exists():
            raise MsdmError(f"{self.folder} holds no checkpoint to resume; leave --resume out to start a run")
        tensors, facts = load_tensors(self.checkpoint)
        check_needs(facts, str(self.checkpoint))
        saved = saved_recipe(facts, self.checkpoint)
        free = _FREE + (_LENGTH if recipe.train.decay == saved.train.decay == "constant" else ())
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
        return tensors, facts

    def start(self, recipe: Recipe, done: int = 0) -> None:
        """Write the resolved recipe, making the folder if need be, and cut the metrics after step `done`.

        A run that was killed has metrics of steps that its checkpoint does not know; they will come again.
        """
        write_text(self.recipe_file, dump_recipe(recipe))
        if self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(self.metrics, "".join(line for line in lines if _step(line) <= done))

    def save(self, recipe: Recipe, optimiser: Optimiser, extra: Mapping[str, Any]) -> None:
        """Write the weights that sampling reads and the checkpoint that training goes on from."""
        facts = run_facts(recipe, optimiser.denoiser, optimiser.done) | dict(extra)
        tensors, state = optimiser.state()
        save_tensors(self.checkpoint, tensors, facts | state)
        with optimiser.ema.applied():
            save_tensors(self.weights, optimiser.denoiser.state_dict(), facts)

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
        lines = self.metrics.read_text(encoding="utf-8").splitlines()
        return max((float(json.loads(line).get("seconds", 0)) for line in lines), default=0.0)


def _step(line: str) -> float:
    """The step of a line of metrics; infinite where the line was cut by a crash."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def run_facts(recipe: Recipe, denoiser: Denoiser, step: int) -> dict[str, Any]:
    """What weights carry: recipe, plugins that it needs with their packages, facts, optimiser steps."""
    return {
        "recipe": recipe.model_dump(mode="json", by_alias=True),
        "plugins": needs(recipe),
        "conditioners": collect_facts(denoiser.by_name),
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
