"""The folder of a run: what is in it, and what may be done with it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.denoiser import Denoiser
from ..core.checkpoint import load_tensors, save_tensors
from ..core.errors import MsdmError
from ..core.files import write_text
from ..core.optimise import Optimiser
from ..core.recipe import Recipe
from .build import collect_facts
from .recipe_files import differences, dump_recipe


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

    def preview(self, step: int) -> Path:
        return self.folder / "previews" / f"step-{step:06d}.png"

    def claim(self, recipe: Recipe, *, resume: bool) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Check that the folder may be used; when resuming, the saved tensors and facts.

        Raises
        ------
        MsdmError
            A run is there and `resume` is false; none is there, or one of another recipe, and it is true.
        """
        if not resume:
            if self.folder.is_file() or (self.folder.is_dir() and any(self.folder.iterdir())):
                what = "holds a run" if self.checkpoint.exists() else "is not empty"
                raise MsdmError(f"{self.folder} {what}; add --resume to go on with a run, or choose another --out")
            return None
        if not self.checkpoint.exists():
            raise MsdmError(f"{self.folder} holds no checkpoint to resume; leave --resume out to start a run")
        tensors, facts = load_tensors(self.checkpoint)
        saved = Recipe.model_validate(facts["recipe"])
        changed = differences(saved, recipe)
        if changed:
            more = f" (+{len(changed) - 1} more)" if len(changed) > 1 else ""
            raise MsdmError(
                f"{self.folder} is a run of another recipe: {changed[0]}{more}; resume with the recipe in "
                f"{self.recipe_file}, or choose another --out"
            )
        return tensors, facts

    def start(self, recipe: Recipe) -> None:
        """Make the folder, with the resolved recipe."""
        write_text(self.recipe_file, dump_recipe(recipe))

    def save(self, recipe: Recipe, optimiser: Optimiser, extra: Mapping[str, Any]) -> None:
        """Write the weights that sampling reads and the checkpoint that training goes on from."""
        facts = run_facts(recipe, optimiser.denoiser, optimiser.done) | dict(extra)
        tensors, state = optimiser.state()
        save_tensors(self.checkpoint, tensors, facts | state)
        with optimiser.ema.applied():
            save_tensors(self.weights, optimiser.denoiser.state_dict(), facts)

    def log(self, **values: Any) -> None:
        """Add a line to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as f:
            f.write(json.dumps(values) + "\n")


def run_facts(recipe: Recipe, denoiser: Denoiser, step: int) -> dict[str, Any]:
    """What weights carry: recipe, conditioners' facts, optimiser steps."""
    conditioners = {n: denoiser.conditioner(n) for n in denoiser.names}
    return {
        "recipe": recipe.model_dump(mode="json", by_alias=True),
        "conditioners": collect_facts(conditioners),
        "step": step,
    }
