"""The checkpoints of a run: the last few and the best, each whole or told from one that is."""

import json
import math
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.checkpoint import DamagedFile, load_facts, load_tensors, save_tensors
from ..core.errors import MsdmError
from ..core.files import file_hash, remove, remove_folder
from ..core.parts import outlines, read_parts, write_parts
from ..core.processes import ALONE, Processes
from ..core.sharding import is_split, own_part

NAME = re.compile(r"step-(\d{6,})\.safetensors")
FOLDER = re.compile(r"step-(\d{6,})\.[0-9a-f]{16}")
FILE = re.compile(r"[\w-]+\.safetensors")
LOSS = "validation"
"""The fact that says how good a checkpoint is: its mean validation loss, or None where there is none."""
PARTS = "parts"
"""The fact that names the folder of a checkpoint's tensors, and the SHA-256 of each file in it."""


@dataclass(frozen=True)
class State:
    """What a run goes on from.

    Attributes
    ----------
    tensors : dict of str -> Tensor
        On the CPU, as `Optimiser.state` named them; where there are `parts`, without memory (``meta``).
    facts : dict
    parts : Path or None
        The folder with the parts of the tensors, where they were split among processes.
    warnings : tuple of str
        Newer checkpoints that are damaged.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    parts: Path | None = None
    warnings: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.facts["step"])

    def whole(self) -> dict[str, Tensor]:
        """All tensors on the CPU.

        Raises
        ------
        DamagedFile
            Their parts are not what msdm-kit writes.
        """
        return self._read(self.tensors)

    def averaged(self) -> dict[str, Tensor]:
        """The weights that sampling reads, on the CPU: averages where there are some.

        Raises
        ------
        DamagedFile
            Their parts are not what msdm-kit writes.
        """
        names = [name.removeprefix("weights.") for name in self.tensors if name.startswith("weights.")]
        of = {n: f"ema.{n}" if f"ema.{n}" in self.tensors else f"weights.{n}" for n in names}
        found = self._read({name: self.tensors[name] for name in of.values()})
        return {name: found[of[name]] for name in names}

    def _read(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.parts is None:
            return tensors
        full = {name: torch.empty_like(tensor, device="cpu") for name, tensor in tensors.items()}
        read_parts(self.parts, full)
        return full


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints, ``step-001000.safetensors`` each.

    Where weights are split among processes, that file holds no tensors: it names the folder in which each
    process has put its parts. The file comes last and goes first, so that no checkpoint lacks a part.

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
        if PARTS not in facts:
            return State(tensors, facts)
        parts = self._checked(step, facts[PARTS])
        return State(outlines(parts), facts, parts)

    def _checked(self, step: int, about: Any) -> Path:
        """The folder of a checkpoint's parts, which are as they were written."""
        path = self.path(step)
        try:
            name, files = about["folder"], dict(about["files"])
            legal = FOLDER.fullmatch(name) and all(map(FILE.fullmatch, files))
        except (TypeError, KeyError, ValueError):
            legal = False
        if not legal:
            raise DamagedFile(f"{path}: its parts are {json.dumps(about):.80}, which no run writes")
        folder = self.folder / str(name)
        try:
            found = {file.name for file in folder.iterdir()}
            for file in sorted(found ^ files.keys()):
                what = "is missing" if file in files else "is not of it"
                raise DamagedFile(f"{folder / file} {what}: the parts of {path.name} are not whole")
            for file, digest in files.items():
                if file_hash(folder / file) != digest:
                    raise DamagedFile(
                        f"{folder / file} is damaged: its bits are not those that were written (SHA-256)"
                    )
        except OSError as error:
            raise DamagedFile(f"the parts of {path} cannot be read: {error}") from None
        return folder

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
            return replace(found, warnings=warnings)
        if damaged:
            raise MsdmError(
                f"none of the {len(damaged)} checkpoints in {self.folder} is whole: {damaged[0]}; put one "
                f"back from a copy, or train into a new folder"
            )
        return None

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], here: Processes = ALONE) -> State:
        """Write the checkpoint of step ``facts["step"]``; nothing is deleted.

        Where tensors are split, all processes call it, each with its parts; otherwise the leader alone.

        Returns
        -------
        State
            As `load` would give it.

        Raises
        ------
        MsdmError
            A tensor has numbers that are not finite, or a file cannot be written.
        """
        if any(map(is_split, tensors.values())):
            return self._save_parts(tensors, facts, here)
        tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        _check_finite(tensors, facts["step"])
        save_tensors(self.path(int(facts["step"])), tensors, facts)
        return State(tensors, dict(facts))

    def _save_parts(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], here: Processes) -> State:
        step = int(facts["step"])
        name = here.gather(f"step-{step:06d}.{secrets.token_hex(8)}")[0]
        folder, files, mistake = self.folder / name, {}, ""
        try:
            _check_finite(tensors, step)
            files = {file: file_hash(folder / file) for file in write_parts(folder, tensors, here.rank)}
        except MsdmError as error:
            mistake = str(error)
        # all come here before the file that makes a checkpoint of the parts
        said = here.gather([mistake, files])
        mistakes = [text for text, _ in said if text]
        files = {file: digest for _, written in said for file, digest in written.items()}
        facts = {**facts, PARTS: {"folder": name, "files": files}}
        if not here.leads:
            if mistakes:
                raise MsdmError(mistakes[0])
            return State({}, facts, folder)
        try:
            unseen = [file for file in files if not (folder / file).is_file()]
            if unseen and not mistakes:  # machines that have folders of the same name
                mistakes = [f"{folder} lacks {unseen[0]}; choose an --out that all processes see"]
            if mistakes:
                raise MsdmError(mistakes[0])
            save_tensors(self.path(step), {}, facts)
        except MsdmError:
            with suppress(MsdmError):  # else it stays, until `tidy`
                remove_folder(folder)
            raise
        return State(outlines(folder), facts, folder)

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
        self.tidy()

    def tidy(self) -> None:
        """Delete the parts of checkpoints that are gone, or that a process was killed over.

        Raises
        ------
        MsdmError
            A folder cannot be deleted.
        """
        steps = self.steps
        for path in self.folder.glob("step-*"):
            found = FOLDER.fullmatch(path.name)
            if found is None or not path.is_dir():
                continue
            if int(found[1]) in steps:
                facts = load_facts(self.path(int(found[1])))
                parts = facts.get(PARTS) if facts is not None else None
                # of one that is damaged, the parts may be wanted when it is put back from a copy
                if facts is None or (isinstance(parts, dict) and parts.get("folder") == path.name):
                    continue
            remove_folder(path)


def _check_finite(tensors: Mapping[str, Tensor], step: int) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(own_part(tensor)).all()):
            raise MsdmError(
                f"step {step}: {name} has numbers that are not finite, and is not saved; go on from the "
                f"checkpoint before with a lower train.lr in a new run, or with train.precision=fp32"
            )
