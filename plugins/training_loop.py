"""The steps of a run: what each leaves, when it is looked at and saved, and how it ends before its time."""

import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from torch import Tensor

from ..core.errors import MsdmError, out_of_memory
from ..core.loader import TrainingLoader
from ..core.numerics import NotFinite
from ..core.optimise import Optimiser, StepReport
from ..core.processes import is_left_alone
from ..core.recipe import Recipe
from ..core.seeds import seed_globals
from .checkpoints import LOSS, State
from .loggers.started import Loggers
from .run import Run, run_facts
from .stopping import stop_event
from .training_events import Interrupted, Listener, Previewed, Saved, Validated, Warned
from .validation import Validation, by_level

VALIDATION, PREVIEW = "validation", "preview"


class TrainingLoop:
    """A run from where its optimiser stands to its end.

    A step is done when its row of metrics is written. Then it is looked at, where that is due: validation
    loss, then preview. Then it is saved, where that is due. A checkpoint says what of its step was still due
    when it was written, which comes first when the run goes on: wherever a run is cut, they end the same.

    Parameters
    ----------
    recipe : Recipe
    run : Run
    optimiser : Optimiser
    loader : TrainingLoader
        The batches of the steps that are not done.
    validation : Validation or None
    facts : mapping
        Facts of the run that go with its weights, beside those of the recipe.
    loggers : Loggers
    listener : callable
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        optimiser: Optimiser,
        loader: TrainingLoader,
        validation: Validation | None,
        facts: Mapping[str, Any],
        loggers: Loggers,
        listener: Listener,
    ) -> None:
        self.recipe = recipe
        self.run = run
        self.optimiser = optimiser
        self.loader = loader
        self.validation = validation
        self.facts = dict(facts)
        self.loggers = loggers
        self.listener = listener
        self._leads = optimiser.here.leads
        self._due: list[str] = []
        self._loss: float | None = None
        self._saved = optimiser.done
        self._began = time.monotonic()

    def go(self, saved: State | None = None) -> None:
        """Train to the end.

        Parameters
        ----------
        saved : State or None
            The checkpoint that the optimiser was loaded from.

        Raises
        ------
        MsdmError
            Training cannot go on; the steps done are saved.
        Interrupted
            It was asked to stop, in whichever process; the steps done are saved.
        """
        total = self.optimiser.total
        self._began = time.monotonic() - self.run.seconds()
        with stop_event() as stop:
            if saved is not None:
                if self._leads:
                    # those on the disc may be of another checkpoint, or damaged
                    self.run.write_weights(saved, self.recipe.train, doubt=True)
                due, self._loss = saved.facts["due"], saved.facts[LOSS]
                self._due = [what for what in due if what in self._looks()]
                if self._due:
                    self._finish(stop)
            with closing(iter(self.loader)) as batches:
                while self.optimiser.done < total:
                    with self._kept():
                        report = self.optimiser.step([next(batches) for _ in self.optimiser.share.passes])
                    self._due, self._loss = self._due_after(report.step), None
                    self._report(report)
                    self._finish(stop)

    def _due_after(self, step: int) -> list[str]:
        last = step == self.optimiser.total
        return [what for what, every in self._looks().items() if step % every == 0 or last]

    def _looks(self) -> dict[str, int]:
        """What steps are looked at for, and every how many of them."""
        if self.validation is None:
            return {}
        return {VALIDATION: self.recipe.train.validate_every, PREVIEW: self.recipe.train.preview_every}

    def _report(self, report: StepReport) -> None:
        self._log(
            report.step,
            loss=report.loss,
            gradient_norm=report.gradient_norm,
            lr=report.lr,
            images=report.step * self.optimiser.share.images,
            seconds=round(time.monotonic() - self._began, 3),
        )
        self.listener(report)

    def _finish(self, stop: threading.Event) -> None:
        """Look at the step, save it, and end where that was asked for."""
        here, step = self.optimiser.here, self.optimiser.done
        with self._kept():
            # asked in any process is asked in all, after the same step
            stopped = here.most(int(stop.is_set())) > 0
            if self._due and not stopped:
                self._look(step, stop)
                stopped = here.most(int(stop.is_set())) > 0
        early = stopped and (step < self.optimiser.total or here.most(len(self._due)) > 0)
        if early or self._is_kept(step):
            self._save()
        if early:
            raise Interrupted(step)

    def _is_kept(self, step: int) -> bool:
        """Whether every run of this recipe saves this step."""
        return step % self.recipe.train.save_every == 0 or step == self.optimiser.total

    def _look(self, step: int, stop: threading.Event) -> None:
        """Do what is due; what is done, or was cut short by a call to stop, says `_due`."""
        assert self.validation is not None
        here, seed = self.optimiser.here, self.recipe.train.seed
        if VALIDATION in self._due:
            seed_globals(seed, VALIDATION, step)
            losses = self.validation.losses(lambda: here.most(int(stop.is_set())) > 0)
            if losses is None:
                return
            self._log(step, validation=by_level(losses))
            self._due.remove(VALIDATION)
            self._loss = sum(losses) / len(losses)
            self.listener(Validated(step, by_level(losses)))
        if PREVIEW in self._due:
            averages = self.optimiser.averages() if self.optimiser.sharded else None
            if self._leads and not self._preview(step, stop, averages):
                return
            self._due.remove(PREVIEW)

    def _preview(self, step: int, stop: threading.Event, averages: Mapping[str, Tensor] | None) -> bool:
        """Paint a preview; False where that was cut short. `averages` are given where weights are split."""
        validation, path = self.validation, self.run.preview(step)
        assert validation is not None
        try:
            averaged = None if averages is None else validation.network(averages)
            seed_globals(self.recipe.train.seed, PREVIEW, step)
            title = f"{self.recipe.name}, step {step}"
            if not validation.preview(path, title, stop.is_set, averaged=averaged):
                return False
        except Exception as error:
            if averages is None or not out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
            self.listener(
                Warned("no preview: the whole network does not fit beside this process's part of it")
            )
            return True
        self.loggers.picture(step, PREVIEW, path)
        self.listener(Previewed(step, path))
        return True

    def _log(self, step: int, **values: Any) -> None:
        if self._leads:
            self.run.log(step=step, **values)
            self.loggers.scalars(step, values)

    def _save(self) -> None:
        optimiser, step = self.optimiser, self.optimiser.done
        if self._leads:
            self.loggers.flush()
        if self._leads or optimiser.sharded:
            tensors, state = optimiser.state()
            facts = run_facts(self.recipe, optimiser.denoiser, step) | self.facts | state
            # A loss that the run has only as it was cut here would make another one the best.
            facts |= {"due": self._due, LOSS: self._loss if self._is_kept(step) else None}
            self.run.save(tensors, facts, self.recipe.train, optimiser.here)
            self.listener(Saved(step, self.run.weights))
        self._saved = self.optimiser.done

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Save the steps done where what follows them fails, and leaves the optimiser as it was after them.

        Of many processes the leader does that by itself, whichever fails: they all have the same state. Where
        weights are split all do it together, after a failure that all have.
        """
        try:
            yield
        except Exception as error:
            known = isinstance(error, MsdmError) or out_of_memory(error) or is_left_alone(error)
            # what the step held, its frames hold: a checkpoint needs room, too
            traceback.clear_frames(error.__traceback__)
            self.optimiser.optimizer.zero_grad(set_to_none=True)
            able = isinstance(error, NotFinite) if self.optimiser.sharded else self._leads
            if known and able and self.optimiser.whole and self.optimiser.done > self._saved:
                try:
                    self._save()
                except Exception as other:
                    if not (isinstance(other, MsdmError) or out_of_memory(other)):
                        raise
                    self.listener(Warned(f"the steps since {self._saved} are lost: {other}"))
            raise
