"""Progress of the commands on data sets."""

import time

from rich.console import Console

from .progress import Pace, _Shown, duration


class DataProgress(_Shown):
    """Called with (done, total), first with (0, total); a context manager.

    Parameters
    ----------
    console : Console
    what : str
        What is done, such as ``importing``.
    """

    def __init__(self, console: Console, what: str) -> None:
        super().__init__(console)
        self._what = what
        self._pace: Pace | None = None

    def __enter__(self) -> "DataProgress":
        super().__enter__()
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._pace is None:
            self._pace = Pace(total, 200)
            self._last = time.monotonic()  # nothing to say of what takes no time
            self._begin(self._what, total)
        self._pace.reached(done)
        rate = self._pace.rate
        text = (
            f"{'?' if rate is None else f'{rate:.1f}'} fields/s  remaining {duration(self._pace.remaining)}"
        )
        self._show(done, text, f"{self._what} {done}/{total}")
