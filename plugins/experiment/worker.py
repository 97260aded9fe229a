"""A process that does steps, one after another."""

import importlib
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

from ...core.errors import MsdmError
from .steps import LOG, Ledger, Step, Stopped, Task

EVERY = 0.2
"""Seconds between two reports of progress at least."""


def work(pipe: Connection, root: Path, device: str, jobs: str) -> None:
    """Do the steps that come through a pipe until it is closed.

    What each job is stands in `JOBS` of the module `jobs`, which is imported with the first step. Steps come
    as (step, inputs). What goes back is ``("progress", share)``, and in the end one of ``("done", Done)``,
    ``("stopped", None)`` and ``("failed", one line)``.
    """
    # the main process decides what Ctrl-C means; what can go on later takes the signal while it works
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    ledger = Ledger(root)
    while True:
        try:
            step, inputs = pipe.recv()
        except EOFError:
            return
        pipe.send(_do(pipe, ledger, step, inputs, device, jobs))


def _do(
    pipe: Connection, ledger: Ledger, step: Step, inputs: str, device: str, jobs: str
) -> tuple[str, object]:
    last = 0.0

    def report(share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY:
            last = now
            pipe.send(("progress", share))

    began = time.monotonic()
    before = 0.0
    try:
        before = ledger.begin(step, inputs)
        _log_to(ledger.folder(step.name) / LOG)
        importlib.import_module(jobs).JOBS[step.job](Task(step, ledger, device, report))
        return "done", ledger.finish(step, inputs, before + time.monotonic() - began)
    except Stopped:
        ledger.note(step, inputs, before + time.monotonic() - began)
        return "stopped", None
    except MsdmError as error:
        print(error, file=sys.stderr)
        return "failed", str(error)
    except Exception as error:
        traceback.print_exc()
        return "failed", " ".join(f"{type(error).__name__}: {error}".split())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _log_to(path: Path) -> None:
    """Send what this process and its libraries print to a file."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
