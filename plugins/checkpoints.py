"""The checkpoints of a run: the last few and the best, each whole or told from one that is."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.checkpoint import DamagedFile, load_facts, load_tensors, save_tensors
from ..core.errors import MsdmError
from ..core.files import remove

NAME = re.compile(r"step-(\d{6,})\.safetensors")
LOSS = "validation"
"""The fact that says how good a checkpoint is: its mean validation loss, or None where there is none."""


@dataclass(frozen=True)
class State:
    """What a run goes on from.

    Attributes
    ----------
    tensors : dict of str -> Tensor
        On the CPU, as `Optimiser.state` named them.
    facts : dict
    warnings : tuple of str
        Newer checkpoints that are damaged.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.facts["step"])


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints, ``step-001000.safetensors`` each.

    Parameters
    ----------
    folder : Path
        It need not be there.
    """

    folder: Path

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}.safetensors"

    @property
    def steps(self) -> list[int]:
        """Of the files that are there, whole or not, ascending."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(found[1]) for name in names if (found := NAME.fullmatch(name)))

    def load(self, step: int) -> State:
        """The checkpoint of a step.

        Raises
        ------
        DamagedFile
            It is not as it was written.
        MsdmError
            There is none, or this version cannot read it.
        """
        tensors, facts = load_tensors(self.path(step), sealed=True)
        if facts.get("step") != step:
            raise DamagedFile(f"{self.path(step)} is not of the step that it is named after")
        return State(tensors, facts)

    def newest(self) -> State | None:
        """The newest that is whole; None where there is no file.

        Raises
        ------
        MsdmError
            All are damaged, or this version cannot read the newest.
        """
        damaged: list[str] = []
        for step in reversed(self.steps):
            try:
                found = self.load(step)
            except DamagedFile as error:
                damaged.append(str(error))
                continue
            warnings = tuple(f"{text}; going on from step {step}, the newest before it" for text in damaged)
            return State(found.tensors, found.facts, warnings)
        if damaged:
            raise MsdmError(
                f"none of the {len(damaged)} checkpoints in {self.folder} is whole: {damaged[0]}; put one "
                f"back from a copy, or train into a new folder"
            )
        return None

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write the checkpoint of step ``facts["step"]``; nothing is deleted.

        Raises
        ------
        MsdmError
            A tensor has numbers that are not finite, or the file cannot be written.
        """
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise MsdmError(
                    f"step {facts['step']}: {name} has numbers that are not finite, and is not saved; go on "
                    f"from the checkpoint before with a lower train.lr in a new run, or with "
                    f"train.precision=fp32"
                )
        save_tensors(self.path(int(facts["step"])), tensors, facts)

    def best(self) -> list[int]:
        """Steps of the checkpoints with the lowest validation losses, best first, early ones before late."""
        losses = []
        for step in self.steps:
            facts = load_facts(self.path(step)) or {}
            if isinstance(loss := facts.get(LOSS), float) and math.isfinite(loss):
                losses.append((loss, step))
        return [step for _, step in sorted(losses)]

    def prune(self, step: int, *, last: int, best: int) -> None:
        """Delete all but the `last` newest up to `step` and the `best` best.

        Those of later steps go too: they are of a run that went on from an earlier checkpoint than its
        newest, which was damaged.

        Raises
        ------
        MsdmError
            One cannot be deleted.
        """
        for late in (s for s in self.steps if s > step):
            remove(self.path(late))
        kept = {*self.steps[-last:], *self.best()[:best]}
        for old in (s for s in self.steps if s not in kept):
            remove(self.path(old))


def averaged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that sampling reads, of a checkpoint's tensors: averages where there are some."""
    names = [name.removeprefix("weights.") for name in tensors if name.startswith("weights.")]
    return {name: tensors.get(f"ema.{name}", tensors[f"weights.{name}"]) for name in names}
