"""A step of an experiment, its folder, and how it is known to be done.

A step is done when its folder holds a marker with the hash of its inputs: its own settings, and the outputs
of the steps that it needs. The marker is written last, so that a folder without one is unfinished, and it
holds the hash of the step's outputs: where those come out the same, nothing further down is made again.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import MsdmError
from ...core.files import write_text
from ...core.reading import parse_json, read_text

FORMAT = 1
"""Of what steps write; another one makes every step anew."""
MARKER, BEGUN, LOG = "done.json", "begun.json", "log.txt"


@dataclass(frozen=True)
class Step:
    """One piece of work.

    Attributes
    ----------
    name : str
        Of its folder.
    job : str
        Which function does it, see `jobs.JOBS`.
    settings : mapping
        Plain values; with what the needed steps made they determine the outputs.
    needs : tuple of str
        Steps by name.
    outputs : tuple of str
        Patterns of the files in its folder that other steps or the user read.
    cost : float
        Estimated seconds on one core.
    resumable : bool
        Whether the job goes on in a folder that it was interrupted in.
    context : mapping
        Plain values that do not change the outputs, such as where the data lie.
    """

    name: str
    job: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("**/*",)
    cost: float = 1.0
    resumable: bool = False
    context: Mapping[str, Any] = field(default_factory=dict)


class Stopped(Exception):
    """A resumable step was asked to stop, and has saved what it goes on from."""


@dataclass(frozen=True)
class Done:
    """What a marker says.

    Attributes
    ----------
    inputs, outputs : str
        Hashes.
    seconds : float
        That it took, pauses between resumes included only where it was running.
    """

    inputs: str
    outputs: str
    seconds: float


class Ledger:
    """The folders of the steps.

    Parameters
    ----------
    root : Path
        That holds them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str) -> Path:
        return self.root / name

    def read(self, name: str) -> Done | None:
        """What is there of a step; None where it is not done."""
        found = _read(self.folder(name) / MARKER)
        try:
            return Done(str(found["inputs"]), str(found["outputs"]), float(found["seconds"]))
        except (KeyError, TypeError, ValueError):
            return None

    def inputs(self, step: Step, outputs: Mapping[str, str]) -> str:
        """The hash of a step's inputs.

        Parameters
        ----------
        step : Step
        outputs : mapping name -> str
            Hashes of the outputs of at least the steps that it needs.
        """
        needs = {name: outputs[name] for name in step.needs}
        told = {"format": FORMAT, "job": step.job, "settings": step.settings, "needs": needs}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def states(self, steps: Sequence[Step]) -> dict[str, Done]:
        """The steps that are done, of steps in an order in which they can be done."""
        done: dict[str, Done] = {}
        for step in steps:
            if all(name in done for name in step.needs):
                found = self.read(step.name)
                outputs = {name: one.outputs for name, one in done.items()}
                if found is not None and found.inputs == self.inputs(step, outputs):
                    done[step.name] = found
        return done

    def begin(self, step: Step, inputs: str) -> float:
        """An empty folder for a step, or the one that it was interrupted in where it can go on there.

        Returns
        -------
        float
            Seconds that were spent on it before.
        """
        folder = self.folder(step.name)
        begun = _read(folder / BEGUN)
        before = 0.0
        try:
            if step.resumable and begun.get("inputs") == inputs and not (folder / MARKER).exists():
                before = float(begun.get("seconds", 0.0))
            elif folder.exists():
                (folder / MARKER).unlink(missing_ok=True)  # first: a folder that is half gone is not done
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MsdmError(f"cannot make {folder}: {error}; check the permissions and the space") from error
        self.note(step, inputs, before)
        return before

    def note(self, step: Step, inputs: str, seconds: float) -> None:
        """Keep how long was spent on a step that is not done."""
        text = json.dumps({"inputs": inputs, "seconds": round(seconds, 3)})
        write_text(self.folder(step.name) / BEGUN, text + "\n")

    def finish(self, step: Step, inputs: str, seconds: float) -> Done:
        """Mark a step as done."""
        folder = self.folder(step.name)
        files = {
            path.relative_to(folder).as_posix(): path
            for pattern in step.outputs
            for path in folder.glob(pattern)
            if path.is_file() and path.name not in (MARKER, BEGUN, LOG)
        }
        lines = [f"{name} {_hash(path)}" for name, path in sorted(files.items())]
        done = Done(inputs, hashlib.sha256("\n".join(lines).encode()).hexdigest(), round(seconds, 3))
        told = {"step": step.name, "inputs": done.inputs, "outputs": done.outputs, "seconds": done.seconds}
        write_text(folder / MARKER, json.dumps(told, indent=2) + "\n")
        return done


@dataclass(frozen=True)
class Task:
    """A step that is to be done.

    Attributes
    ----------
    step : Step
    ledger : Ledger
    device : str
    report : callable
        Takes the share that is done, 0 to 1.
    """

    step: Step
    ledger: Ledger
    device: str
    report: Callable[[float], None]

    @property
    def folder(self) -> Path:
        """Its own folder."""
        return self.ledger.folder(self.step.name)

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.step.settings)

    @property
    def data(self) -> Path:
        """The folder of the data."""
        return Path(self.step.context["data"])

    def need(self, job: str) -> list[Path]:
        """The folders of the needed steps whose names begin so."""
        names = [n for n in self.step.needs if n == job or n.startswith(f"{job}.")]
        return [self.ledger.folder(name) for name in names]

    def count(self, done: int, total: int) -> None:
        """Report `done` of `total`."""
        self.report(done / total if total else 1.0)


def ordered(steps: Sequence[Step]) -> list[Step]:
    """Steps in an order in which they can be done, otherwise as they come.

    Raises
    ------
    ValueError
        One needs a step that is not there, or needs itself by way of others.
    """
    left = list(steps)
    placed: dict[str, Step] = {}
    while left:
        step = next((s for s in left if all(name in placed for name in s.needs)), None)
        if step is None:
            raise ValueError(f"{left[0].name} can never be done: it needs {left[0].needs}")
        left.remove(step)
        placed[step.name] = step
    return list(placed.values())


def _read(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(read_text(path))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _hash(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
