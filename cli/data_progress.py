"""Progress of the commands on data sets."""

import time

from rich.console import Console

from .progress import ProgressDisplay, duration


class DataProgress(ProgressDisplay):
    """Called with (done, total), first with (0, total); a context manager.

    Parameters
    ----------
    console : Console
    what : str
        What is done, such as ``importing``.
    unit : str
        What is counted.
    """

    def __init__(self, console: Console, what: str, unit: str = "fields") -> None:
        super().__init__(console)
        self._what = what
        self._unit = unit

    def __enter__(self) -> "DataProgress":
        super().__enter__()
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._task is None:
            self._last = time.monotonic()  # nothing to say of what takes no time
            self._begin(self._what, total, done)
        else:
            self._pace.reached(done)
        rate = self._pace.rate
        speed = "?" if rate is None else f"{rate:.1f}"
        text = f"{speed} {self._unit}/s  remaining {duration(self._pace.remaining)}"
        self._show(done, text, f"{self._what} {done}/{total}")
