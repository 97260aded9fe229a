"""An experiment: prepared, looked at, and run."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import MsdmError
from ...core.files import atomic_write, remove, write_text
from ..device import cores, pick_device
from .costs import estimate
from .forecast import Forecast
from .graph import FIGURES, REPORT, build_steps
from .plan_files import dump_plan, find_plan, load_plan
from .protocol import Protocol, open_protocol
from .runner import Listener, run_steps
from .steps import BEGUN, LOG, MARKER, Done, Ledger, Step

STEPS, PLAN = "steps", "plan.yaml"


@dataclass(frozen=True)
class Experiment:
    """A plan with its steps, and where it runs.

    Attributes
    ----------
    protocol : Protocol
    out : Path or None
        None where it is only looked at.
    steps : list of Step
        In an order in which they can be done.
    devices : tuple of str
        A worker process for each.
    threads : int
        CPU threads of each process.
    """

    protocol: Protocol
    out: Path | None
    steps: list[Step]
    devices: tuple[str, ...]
    threads: int

    def done(self) -> dict[str, Done]:
        """The steps that are done, and need not be done again."""
        return {} if self.out is None else Ledger(self.out / STEPS).states(self.steps)

    def estimate(self) -> tuple[float, float]:
        """Seconds of computing that are left, on one core or GPU; and seconds until the end."""
        forecast = Forecast(self.steps, len(self.devices))
        for name, found in self.done().items():
            forecast.measured(name, found.seconds)
        left = sum(forecast.left(step.name, {}) for step in self.steps)
        return left, forecast.remaining({})


def prepare(
    plan: str | Path,
    out: str | Path | None,
    *,
    jobs: int | None = None,
    devices: Sequence[str] | None = None,
    threads: int | None = None,
    overrides: Sequence[str] = (),
) -> Experiment:
    """Check a plan and all that it names; nothing is written.

    Parameters
    ----------
    plan : str or Path
        A plan by name, or the path of a YAML file.
    out : str, Path or None
        A new or empty folder, or one of an experiment, which is gone on with. None only looks at the plan.
    jobs : int or None
        Worker processes. None takes one for each GPU, or for each core where there is none.
    devices : sequence of str or None
        Devices by name, given to the processes in turn. None takes all GPUs, or the CPU.
    threads : int or None
        CPU threads of each process. None takes 1 on a CPU, so that results do not depend on `jobs`; with
        GPUs, an equal share of the cores.
    overrides : sequence of str
        Changes of the plan, such as ``generators.msdm.steps=1000``.

    Raises
    ------
    MsdmError
        Anything is wrong with the plan, the data, the folder or the devices.
    """
    path = find_plan(str(plan))
    parsed = load_plan(path, overrides)
    folder = None if out is None else Path(out)
    if folder is not None:
        _check_out(folder)
    named = _devices(devices, jobs)
    gpu = not named[0].startswith("cpu")
    share = threads if threads is not None else max(1, cores() // len(named)) if gpu else 1
    protocol = open_protocol(parsed, path)
    steps = build_steps(protocol, estimate(protocol, gpu=gpu))
    return Experiment(protocol, folder, steps, named, share)


def run_experiment(experiment: Experiment, listener: Listener = lambda progress: None) -> Path:
    """Do what is not done, and write the results.

    Parameters
    ----------
    experiment : Experiment
        From `prepare`.
    listener : callable
        Called with `runner.Progress`.

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    MsdmError
        A step failed, or the folder cannot be written; what was done is kept.
    KeyboardInterrupt
        Ctrl-C; likewise.
    """
    out = experiment.out
    if out is None:
        raise MsdmError("the experiment has no folder; prepare it with one")
    with _locked(out):
        write_text(out / PLAN, dump_plan(experiment.protocol.plan))
        run_steps(
            experiment.steps,
            out / STEPS,
            experiment.devices,
            threads=experiment.threads,
            listener=listener,
        )
        publish(out / STEPS / REPORT, out)
    return out / "report.html"


def publish(last: Path, out: Path) -> None:
    """Copy the files of the last step to where the user looks for them; figures of an earlier plan go."""
    for path in sorted(last.rglob("*")):
        if path.is_file() and path.name not in (MARKER, BEGUN, LOG):
            with atomic_write(out / path.relative_to(last)) as temporary:
                shutil.copyfile(path, temporary)
    for path in (out / FIGURES).glob("figure*"):
        if not (last / FIGURES / path.name).is_file():
            remove(path)


def _check_out(folder: Path) -> None:
    if folder.is_file():
        raise MsdmError(f"{folder} is a file, not a folder; choose another --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / PLAN).is_file():
        raise MsdmError(f"{folder} is not empty, and no experiment is in it; choose another --out")


def _devices(devices: Sequence[str] | None, jobs: int | None) -> tuple[str, ...]:
    if jobs is not None and jobs < 1:
        raise MsdmError(f"{jobs} processes do nothing; give --jobs 1 or more")
    if devices is None:
        import torch

        count = torch.cuda.device_count()
        names = tuple(f"cuda:{i}" for i in range(count)) or ("cpu",)
    else:
        names = tuple(str(pick_device(name)) for name in devices)
        if not names:
            raise MsdmError("no device is named; give --devices cpu, or cuda:0,cuda:1 ...")
    number = jobs if jobs is not None else cores() if names == ("cpu",) else len(names)
    return tuple(names[i % len(names)] for i in range(number))


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep a second process from the same experiment."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise MsdmError(
            f"cannot write {out}: {error}; check the permissions, or choose another --out"
        ) from error
    try:
        try:
            import fcntl
        except ImportError:  # there is none on Windows, where the user has to take care
            pass
        else:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise MsdmError(
                    f"another process runs the experiment in {out}; wait for it, or stop it"
                ) from None
        yield
    finally:
        os.close(handle)
