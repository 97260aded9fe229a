"""Steps in several processes: in order of need, each once, stopped cleanly."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from ...core.errors import MsdmError
from ..parallel import uninterrupted
from .forecast import Forecast, Running, urgency
from .steps import LOG, Done, Ledger, Step
from .worker import work

JOBS = f"{__package__}.jobs"
PATIENCE = 120.0
"""Seconds that a step which saves when it is interrupted is given for it."""
TICK = 0.5
"""Seconds between two reports of how far it is."""


@dataclass(frozen=True)
class Progress:
    """How far an experiment is.

    Attributes
    ----------
    done, total : int
        Steps.
    share : float
        Of the work, 0 to 1.
    seconds : float
        Since this run began.
    remaining : float or None
        Seconds; None before anything was measured.
    running : mapping step -> float
        The share of each step that is under way.
    finished : str or None
        The step that was done just now, of which this tells.
    """

    done: int
    total: int
    share: float
    seconds: float
    remaining: float | None
    running: Mapping[str, float] = field(default_factory=dict)
    finished: str | None = None


Listener = Callable[[Progress], None]


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    place: int
    step: Step | None = None
    began: float = 0.0
    share: float = 0.0


def run_steps(
    steps: Sequence[Step],
    root: Path,
    devices: Sequence[str],
    *,
    threads: int = 1,
    jobs: str = JOBS,
    listener: Listener = lambda progress: None,
) -> dict[str, Done]:
    """Do what is not done.

    Parameters
    ----------
    steps : sequence of Step
        In an order in which they can be done, see `steps.ordered`.
    root : Path
        Of the steps' folders.
    devices : sequence of str
        One worker process for each, which computes there.
    threads : int
        CPU threads of each.
    jobs : str
        The module that says what each job is.
    listener : callable

    Returns
    -------
    dict of name -> Done

    Raises
    ------
    MsdmError
        A step failed: which, why, and where its log is. Others that were running have stopped; those that
        were done are kept.
    KeyboardInterrupt
        Ctrl-C, likewise.
    """
    run = _Run(steps, root, devices, threads, jobs, listener)
    try:
        return run.to_the_end()
    except (MsdmError, KeyboardInterrupt):
        run.stop()
        raise
    finally:
        run.close()


class _Run:
    def __init__(
        self,
        steps: Sequence[Step],
        root: Path,
        devices: Sequence[str],
        threads: int,
        jobs: str,
        listener: Listener,
    ) -> None:
        self.steps, self.ledger, self.listener = steps, Ledger(root), listener
        self.devices, self.threads, self.jobs = devices, threads, jobs
        self.done = self.ledger.states(steps)
        self.forecast = Forecast(steps, len(devices))
        for name, found in self.done.items():
            self.forecast.measured(name, found.seconds)
        self.urgency = urgency(steps)
        self.workers: list[_Worker] = []
        self.began = time.monotonic()

    def to_the_end(self) -> dict[str, Done]:
        self._tell()
        while len(self.done) < len(self.steps):
            self._give_out()
            busy = {worker.pipe: worker for worker in self.workers if worker.step is not None}
            for pipe in wait([*busy], TICK):
                assert isinstance(pipe, Connection)
                self._hear(busy[pipe])
            self._tell()
        return self.done

    def _give_out(self) -> None:
        """Start what can be started, what has most behind it first."""
        busy = {worker.step.name for worker in self.workers if worker.step is not None}
        ready = [
            step
            for step in self.steps
            if step.name not in self.done
            and step.name not in busy
            and all(n in self.done for n in step.needs)
        ]
        for step in sorted(ready, key=lambda step: -self.urgency[step.name]):
            inputs = self._inputs(step)
            there = self.ledger.read(step.name)
            if there is not None and there.inputs == inputs:  # what it needs came out as it was
                self._finished(step, there)
                continue
            worker = self._idle()
            if worker is None:
                return
            worker.step, worker.began, worker.share = step, time.monotonic(), 0.0
            # a process that has died just now is heard of as one that died in the step
            with suppress(OSError):
                worker.pipe.send((step, inputs))

    def _inputs(self, step: Step) -> str:
        return self.ledger.inputs(step, {name: found.outputs for name, found in self.done.items()})

    def _idle(self) -> _Worker | None:
        for worker in [worker for worker in self.workers if worker.step is None]:
            if worker.process.is_alive():
                return worker
            worker.pipe.close()  # killed while it waited: nothing is lost, another takes its place
            self.workers.remove(worker)
        free = sorted(set(range(len(self.devices))) - {worker.place for worker in self.workers})
        if not free:
            return None
        here, there = multiprocessing.Pipe()
        # spawn: a fork of a process with threads (PyTorch's) can hang
        context = multiprocessing.get_context("spawn")
        process = context.Process(
            target=work,
            args=(there, self.ledger.root, self.devices[free[0]], self.jobs),
            daemon=False,  # loaders of a step are processes as well, which a daemon may not have
        )
        with _environment(OMP_NUM_THREADS=str(self.threads), OMP_WAIT_POLICY="PASSIVE"), uninterrupted():
            process.start()
            there.close()
            self.workers.append(_Worker(process, here, free[0]))
        return self.workers[-1]

    def _hear(self, worker: _Worker) -> None:
        step = worker.step
        assert step is not None
        try:
            what, told = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            self.workers.remove(worker)
            raise self._failure(
                step, f"its process died (status {worker.process.exitcode}), as where memory runs out"
            ) from None
        if what == "progress":
            worker.share = told
        elif what == "done":
            worker.step = None
            self._finished(step, told)
        else:
            worker.step = None
            if what == "stopped":
                raise KeyboardInterrupt
            raise self._failure(step, told)

    def _failure(self, step: Step, reason: str) -> MsdmError:
        log = self.ledger.folder(step.name) / LOG
        return MsdmError(f"step {step.name} failed: {reason}; its log is {log}; what is done is kept")

    def _finished(self, step: Step, found: Done) -> None:
        self.done[step.name] = found
        self.forecast.measured(step.name, found.seconds)
        self._tell(step.name)

    def _tell(self, finished: str | None = None) -> None:
        now = time.monotonic()
        running = {
            worker.step.name: Running(now - worker.began, worker.share)
            for worker in self.workers
            if worker.step is not None
        }
        known = bool(self.done) or any(one.share for one in running.values())
        self.listener(
            Progress(
                len(self.done),
                len(self.steps),
                self.forecast.share(running),
                now - self.began,
                self.forecast.remaining(running) if known else None,
                {name: one.share for name, one in running.items()},
                finished,
            )
        )

    def stop(self) -> None:
        """Let what can go on later save; end the rest now. A second Ctrl-C ends all at once."""
        saving = []
        for worker in self.workers:
            if worker.step is not None and worker.step.resumable:
                saving.append(worker)
            else:
                worker.process.kill()
        limit = time.monotonic() + PATIENCE
        try:
            while saving and time.monotonic() < limit:
                for worker in saving:  # again and again: before it trains, it does not listen
                    if worker.process.pid is not None and worker.process.is_alive():
                        os.kill(worker.process.pid, signal.SIGINT)
                for pipe in wait([worker.pipe for worker in saving], TICK):
                    worker = next(w for w in saving if w.pipe is pipe)
                    try:
                        if worker.pipe.recv()[0] != "progress":
                            saving.remove(worker)
                    except (EOFError, OSError):
                        saving.remove(worker)
        except KeyboardInterrupt:
            return

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers:
            worker.pipe.close()
            if worker.step is not None:
                worker.process.kill()
        for worker in self.workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables that child processes begin with."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
