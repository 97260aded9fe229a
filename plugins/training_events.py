"""What a training run tells its listener."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..core.optimise import StepReport


@dataclass(frozen=True)
class Started:
    """The run is about to train: `done` of `total` optimiser steps are behind it."""

    total: int
    done: int
    parameters: int
    fields: int
    device: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """The k-th of n fields was read and checked."""

    done: int
    total: int


@dataclass(frozen=True)
class Validated:
    """Validation loss of the averaged weights, by noise level."""

    step: int
    losses: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Previewed:
    """A contact sheet was written."""

    step: int
    path: Path


@dataclass(frozen=True)
class Saved:
    """Weights and checkpoint were written."""

    step: int
    path: Path


@dataclass(frozen=True)
class Warned:
    """Something failed that the run does without."""

    text: str


Event = Started | Checked | StepReport | Validated | Previewed | Saved | Warned
Listener = Callable[[Event], None]


class Interrupted(Exception):
    """Training was asked to stop; everything is saved.

    Attributes
    ----------
    step : int
        Optimiser steps done.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step
