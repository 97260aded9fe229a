"""A piece of work in a process of its own that something happens to."""

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from msdm_kit import MsdmError
from msdm_kit.plugins.training_events import Interrupted

Work = Callable[[], Any]
DONE, MISTAKE, INTERRUPTED, BROKEN = 0, 2, 130, 1
OPERATIONS = ("replace", "fsync", "unlink")
"""Functions of `os` by which files get and lose their names, and reach the disc."""


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes
    ----------
    status : int
        What it exited with, or minus the number of the signal that killed it.
    said : str
        What it printed.
    """

    status: int
    said: str


def start(work: Work, log: Path) -> int:
    """Do the work in a child process, which has all modules already; its number.

    PyTorch must not have used several threads here: they do not come along.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = BROKEN
    try:
        with log.open("w") as text:
            os.dup2(text.fileno(), 1)
            os.dup2(text.fileno(), 2)
        work()
        status = DONE
    except MsdmError as error:
        print(f"error: {error}", file=sys.stderr)
        status = MISTAKE
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BaseException as error:
        traceback.print_exc()
        status = INTERRUPTED if isinstance(error, Interrupted) else BROKEN
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def end(pid: int, log: Path) -> Ended:
    """Wait for a child process."""
    _, found = os.waitpid(pid, 0)
    return Ended(os.waitstatus_to_exitcode(found), log.read_text() if log.exists() else "")


def undisturbed(work: Work, log: Path) -> Ended:
    """Work to which nothing happens."""
    return end(start(work, log), log)


def signalled(work: Work, log: Path, number: signal.Signals, seconds: float) -> Ended:
    """Work that gets a signal after some time, where it has not ended by then."""
    pid = start(work, log)
    time.sleep(seconds)
    os.kill(pid, number)  # a child that has ended keeps its number until it is waited for
    return end(pid, log)


def child_killed(work: Work, log: Path, seconds: float, rng: random.Random) -> Ended:
    """Work of which a child process, such as a loader worker, is killed after some time; Linux alone.

    A compiler is spared: where it is killed, the work goes on without kernels, and rounds otherwise.
    """
    pid = start(work, log)
    time.sleep(seconds)
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        children = [
            c for c in children if Path(f"/proc/{c}/exe").readlink() == Path("/proc/self/exe").readlink()
        ]
        if children:
            os.kill(int(rng.choice(children)), signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has ended
    return end(pid, log)


def killed_at_operation(work: Work, log: Path, number: int) -> Ended:
    """Work whose process kills itself at one of its file operations.

    Parameters
    ----------
    number : int
        Twice the operation's, from 0, and one more for after it rather than before.
    """

    def act() -> None:
        _count(number)
        work()

    return undisturbed(act, log)


def operations(work: Work, log: Path) -> int:
    """How many file operations undisturbed work has; what it loads is loaded here, for all that follow."""

    def act() -> None:
        before = set(sys.modules)
        seen = _count(None)
        work()
        print("loaded:", *(set(sys.modules) - before))
        print(f"operations: {len(seen)}")

    said = undisturbed(act, log).said
    loaded, _, number = said.rpartition("loaded: ")[2].partition("operations: ")
    for name in loaded.split():
        with suppress(Exception):  # some modules are made by others, and cannot be imported
            import_module(name)
    return int(number)


def _count(fatal: int | None) -> list[str]:
    seen: list[str] = []

    def watch(name: str) -> None:
        act = getattr(os, name)

        def watched(*words: Any, **options: Any) -> Any:
            if fatal == 2 * len(seen):
                os.kill(os.getpid(), signal.SIGKILL)
            seen.append(name)
            found = act(*words, **options)
            if fatal == 2 * len(seen) - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        setattr(os, name, watched)

    for name in OPERATIONS:
        watch(name)
    return seen
