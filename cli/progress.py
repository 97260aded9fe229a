"""Progress of training and of sampling: a live bar on a terminal, a line now and then elsewhere."""

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from .console import counted, say

if TYPE_CHECKING:
    from ..core.optimise import StepReport
    from ..core.recipe import TrainSection
    from ..plugins import sweep, training_events
    from ..plugins.sampling import events

LINE_EVERY = 10.0
"""Seconds between two lines where there is no terminal."""
WINDOW = 200
"""Steps that a pace looks back on, where nothing else is said."""
SMOOTHING = 0.98
"""Weight of the past in the smoothed loss."""


class Pace:
    """How fast it goes, over the last steps, pauses between them included.

    Parameters
    ----------
    total : int
        Units of work in all.
    window : int
        Steps that are looked back on.
    clock : callable () -> float
        Seconds.
    """

    def __init__(self, total: int, window: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self._clock = clock
        self._began = clock()
        self._seen: deque[tuple[int, float]] = deque(maxlen=window + 1)

    def reached(self, done: int) -> None:
        """`done` units of the total are behind."""
        self._seen.append((done, self._clock()))

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._began

    @property
    def rate(self) -> float | None:
        """Units per second; None before two calls of `reached`."""
        if len(self._seen) < 2:
            return None
        (a, start), (b, end) = self._seen[0], self._seen[-1]
        return (b - a) / (end - start) if end > start else None

    @property
    def remaining(self) -> float | None:
        """Seconds to go at this rate."""
        return (self.total - self._seen[-1][0]) / self.rate if self.rate else None


def duration(seconds: float | None) -> str:
    """``4 s``, ``12:05``, ``3:12:05``; ``?`` for None."""
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class ProgressDisplay:
    """A bar with a text on a terminal, lines with the same text elsewhere; a context manager.

    Parameters
    ----------
    console : Console
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._pace = Pace(0, 1)
        self._task: TaskID | None = None
        self._last = -LINE_EVERY
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", markup=False),
        )
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)

    def __enter__(self) -> "ProgressDisplay":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def _begin(self, what: str, total: int, done: int = 0, window: int = WINDOW) -> None:
        """Start a bar and its pace, in the place of those before."""
        self._pace = Pace(total, window)
        self._pace.reached(done)
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(what, total=total, completed=done, text="")

    @property
    def _times(self) -> str:
        return f"elapsed {duration(self._pace.elapsed)}  remaining {duration(self._pace.remaining)}"

    def _show(self, done: int, text: str, line: str, *, now: bool = False) -> None:
        """Move the bar; without a terminal print `line`, where the last one is long ago or `now`."""
        if self._task is not None:
            self._bar.update(self._task, completed=done, text=text)
        if not self.console.is_terminal and (now or time.monotonic() - self._last >= LINE_EVERY):
            self._last = time.monotonic()
            say(self.console, f"{line}  {text}")


class TrainingProgress(ProgressDisplay):
    """A listener of `train`; a context manager.

    Parameters
    ----------
    console : Console
    section : TrainSection
        For how often there are pauses: the remaining time looks back over at least one of each.
    """

    def __init__(self, console: Console, section: "TrainSection") -> None:
        super().__init__(console)
        self._window = max(50, section.validate_every, section.preview_every, section.save_every)
        self._images = section.batch * section.accumulate
        self._loss = self._weight = 0.0

    def __enter__(self) -> "TrainingProgress":
        super().__enter__()
        return self

    def __call__(self, event: "training_events.Event") -> None:
        from ..plugins import training_events

        if isinstance(event, training_events.Checked):
            if event.done == 1:
                self._begin("checking fields", event.total)
            if self._task is not None:
                self._bar.update(self._task, completed=event.done)
        elif isinstance(event, training_events.Started):
            self._started(event)
        elif isinstance(event, training_events.Validated):
            losses = "  ".join(f"{level} {loss:.4f}" for level, loss in event.losses.items())
            say(self.console, f"step {event.step}: validation loss  {losses}")
        elif isinstance(event, training_events.Previewed):
            say(self.console, f"step {event.step}: preview {event.path}")
        elif isinstance(event, training_events.Saved):
            say(self.console, f"step {event.step}: saved {event.path}")
        elif isinstance(event, training_events.Warned):
            say(self.console, f"warning: {event.text}", style="yellow")
        else:
            self._step(event)

    def _started(self, event: "training_events.Started") -> None:
        for note in event.notes:
            say(self.console, f"note: {note}")
        so_far = f", {event.done} of them done" if event.done else ""
        say(
            self.console,
            f"{event.parameters:,} parameters, {event.fields} training fields, {event.total} steps{so_far}, "
            f"on {event.device}",
        )
        self._begin("training", event.total, event.done, self._window)

    def _step(self, report: "StepReport") -> None:
        self._pace.reached(report.step)
        self._loss = SMOOTHING * self._loss + (1 - SMOOTHING) * report.loss
        self._weight = SMOOTHING * self._weight + 1 - SMOOTHING
        rate = self._pace.rate
        speed = "?" if rate is None else f"{rate * self._images:.1f}"
        text = f"loss {self._loss / self._weight:.4f}  {speed} images/s  {self._times}"
        last = report.step == self._pace.total
        self._show(report.step, text, f"step {report.step}/{self._pace.total}", now=last)


class SamplingProgress(ProgressDisplay):
    """A listener of `paint`; a context manager.

    Of several processes it hears one, and takes the others to be as far.

    Attributes
    ----------
    fields, pairs, rejected : int
        Planned outputs, and so far the pairs that were kept and the paintings that were not.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._done = self._evaluations = self.pairs = self.rejected = self.fields = self._settled = 0
        self._share, self._processes = 0, 1

    def __enter__(self) -> "SamplingProgress":
        super().__enter__()
        return self

    def __call__(self, event: "events.Planned | events.Stepped | events.Painted") -> None:
        from ..plugins.sampling import events

        if isinstance(event, events.Planned):
            self._planned(event)
            return
        if isinstance(event, events.Stepped):
            self._done += event.fields
            self._pace.reached(self._done)
        else:
            self._painted(event)
        rejected = f"  {self.rejected} rejected" if self.rejected else ""
        about = "about " if self._processes > 1 else ""
        text = f"{about}{self.pairs}/{self.fields} pairs{rejected}  {self._times}"
        last = self._settled == self._share
        self._show(self._done, text, f"evaluation {self._done}/{self._pace.total}", now=last)

    def _planned(self, event: "events.Planned") -> None:
        self.fields, self.pairs, self.rejected = event.fields, event.pairs, event.rejected
        self._share, self._processes = event.share, event.processes
        fields = counted(event.fields, "field")
        if event.done == event.fields:
            say(self.console, f"{fields} of this job, and all are painted already")
            return
        there = f", {event.done} of them done already," if event.done else ""
        several = f", in {event.processes} processes" if event.processes > 1 else ""
        steps = f"{counted(event.steps, 'step')} each, on {event.device}"
        say(self.console, f"painting {fields}{there} in {steps}{several}")
        if event.lost:
            again = counted(event.lost, "pair")
            say(self.console, f"note: {again} of which files are gone or damaged will be painted again")
        if event.seen:
            say(self.console, f"note: {event.seen} of them are of the training split")
        for note in event.notes:
            say(self.console, f"note: {note}")
        self._evaluations = event.evaluations
        self._begin("painting", event.share * event.evaluations)

    def _painted(self, event: "events.Painted") -> None:
        left = self.fields - self.pairs
        self.pairs += min(left, self._processes) * (not event.rejected)
        self.rejected += self._processes * bool(event.rejected)
        self._settled += not event.again
        if event.again:
            self._pace.total += self._evaluations
            if self._task is not None:
                self._bar.update(self._task, total=self._pace.total)


class SweepProgress(ProgressDisplay):
    """A listener of `sweep`; a context manager."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._done = self.tried = self.trials = 0

    def __enter__(self) -> "SweepProgress":
        super().__enter__()
        return self

    def __call__(self, event: "sweep.SweepPlanned | events.Stepped | sweep.Point") -> None:
        from ..plugins import sweep
        from ..plugins.sampling import events

        if isinstance(event, sweep.SweepPlanned):
            self.trials = event.trials
            fields = counted(event.fields, "field")
            say(
                self.console,
                f"trying {event.trials} combinations of solver, spacing and steps on {fields}, "
                f"{event.evaluations} evaluations in all, on {event.device}",
            )
            self._begin("solver sweep", event.evaluations)
            return
        if isinstance(event, events.Stepped):
            self._done += event.fields
            self._pace.reached(self._done)
        else:
            self.tried += 1
        text = f"{self.tried}/{self.trials} tried  {self._times}"
        last = self.tried == self.trials
        self._show(self._done, text, f"evaluation {self._done}/{self._pace.total}", now=last)
