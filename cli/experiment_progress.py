"""Progress of an experiment: one bar over all its steps, and what runs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from .console import say
from .progress import ProgressDisplay, duration

if TYPE_CHECKING:
    from ..plugins.experiment.experiment import Experiment
    from ..plugins.experiment.runner import Progress as Told

PARTS = 100
"""Into which the work is divided: the bar shows percent of it."""
SHOWN = 3
"""Running steps that are named."""


class _TwoLines(Progress):
    """A bar, and below it what runs."""

    running = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.running, no_wrap=True, overflow="ellipsis")


class ExperimentProgress(ProgressDisplay):
    """A listener of `run_experiment`; a context manager."""

    def __init__(self, console: Console, experiment: "Experiment") -> None:
        super().__init__(console)
        self._lines = self._bar = _TwoLines(
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:.0f}%", markup=False),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._experiment = experiment
        self._began = False

    def __enter__(self) -> "ExperimentProgress":
        super().__enter__()
        return self

    def __call__(self, told: "Told") -> None:
        if not self._began:
            self._began = True
            devices = self._experiment.devices
            say(
                self.console,
                f"{told.total} steps, {told.done} of them done; {len(devices)} "
                f"process{'es' * (len(devices) > 1)} on {', '.join(dict.fromkeys(devices))}",
            )
            self._begin("experiment", PARTS)
        running = [f"{name} {share:.0%}" for name, share in told.running.items()]
        more = f" and {len(running) - SHOWN} more" if len(running) > SHOWN else ""
        self._lines.running = f"{', '.join(running[:SHOWN])}{more}"
        text = (
            f"{told.done}/{told.total} steps  elapsed {duration(told.seconds)}  "
            f"remaining {duration(told.remaining)}"
        )
        if told.finished is not None:
            say(self.console, f"done: {told.finished}")
        if self.console.is_terminal:
            self._show(round(PARTS * told.share), text, "")
            return
        last = told.done == told.total and told.finished is not None
        self._show(0, f"{text}  {self._lines.running}".rstrip(), f"{told.share:.0%}", now=last)
