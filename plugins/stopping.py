"""Being asked to stop: an optimiser step is never cut in two."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Ctrl-C, what a batch system sends before it takes a machine away, and what Slurm sends where it is told to
(``--signal=USR1@120``) some time before that."""


@contextmanager
def stop_event() -> Iterator[threading.Event]:
    """An event that the first of `SIGNALS` sets.

    A second Ctrl-C acts as it did before. Of the others any number may come, as batch systems and torchrun
    send them again and kill in the end.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def handle(number: int, frame: object) -> None:
        if number == signal.SIGINT and stop.is_set() and "TORCHELASTIC_RUN_ID" not in os.environ:
            restore()
            signal.raise_signal(signal.SIGINT)
        stop.set()

    def restore() -> None:
        for number, handler in before.items():
            # None: it was set by no Python code, and cannot be set again
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()


@contextmanager
def interrupted_by_all() -> Iterator[None]:
    """Each of `SIGNALS` raises `KeyboardInterrupt`, as Ctrl-C does: for work that may be cut off anywhere."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
