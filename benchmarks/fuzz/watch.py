"""One input at a time: what a reader may do with it, and what is a finding."""

import faulthandler
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from msdm_kit.core.errors import MsdmError

SECONDS = 5.0
"""Of processor time for an input."""
HANG = 60.0
"""Seconds after which a process that came to no end is ended."""
LONGEST = 4000
"""Characters of a message."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ALTERS = {
    "os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2,
    "os.truncate": 1, "os.chmod": 1, "os.chown": 1,
}  # fmt: skip
"""Audit events, and how many of their first arguments are paths that are written to."""
_NEVER = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.", "pickle.find_class")


class TooSlow(BaseException):
    """Not caught by what catches `Exception`."""


@dataclass(frozen=True)
class Finding:
    """Something that a reader must not do.

    Attributes
    ----------
    what : str
        Names the place: two of one `what` are one finding.
    detail : str
    """

    what: str
    detail: str = ""


class Watch:
    """Runs a reader on inputs, and looks at what it does.

    Parameters
    ----------
    read : callable (folder, data)
        Writes the input to a file in `folder`, and has it read.
    folder : Path
        All that may be written to.
    memory : int
        Bytes that one input may take, beside what the process has when the first one comes.
    addresses : bool
        Whether the limit is of addresses as well as of resident memory.
    limited : bool
        False: no limit is set that would hold for the whole process, those of memory and of hanging.
    """

    def __init__(
        self,
        read: Callable[[Path, bytes], None],
        folder: Path,
        memory: int,
        *,
        addresses: bool = True,
        limited: bool = True,
    ) -> None:
        self._read = read
        self._folder = folder
        self._inside = os.path.realpath(folder)
        self._memory = memory if limited else None
        self._addresses = addresses
        self._broken: list[str] = []
        self._printed = -1
        self._before: int | None = None
        self._limited = limited
        _install()

    def warm_up(self, seeds: list[bytes]) -> list[Finding]:
        """Read the seeds, so that what is imported and built once is there; then set the limits."""
        for seed in seeds:
            self.run(seed, timed=False)  # what is imported, and instrumented, may take longer than an input
        found = [finding for seed in seeds if (finding := self.run(seed)) is not None]
        self._before = _peak()
        if self._memory is not None and self._addresses:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            most = pages * resource.getpagesize() + self._memory
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        return found

    def run(self, data: bytes, *, timed: bool = True) -> Finding | None:
        """Read one input."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._broken.clear()
        printed = _printed()
        if self._limited and timed:
            faulthandler.dump_traceback_later(HANG, exit=True)
        before = signal.signal(signal.SIGPROF, _too_slow)
        signal.setitimer(signal.ITIMER_PROF, SECONDS if timed else 0)
        start = time.process_time()
        _watching.append(self)
        try:
            finding = self._outcome(data)
        finally:
            _watching.clear()
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
            if self._limited:
                faulthandler.cancel_dump_traceback_later()
        if self._broken:
            return Finding(f"reaches out: {self._broken[0]}")
        if finding is None and time.process_time() - start > SECONDS:
            return Finding("too slow", f"{time.process_time() - start:.1f} s")
        if finding is None and _printed() != printed:
            return Finding(f"prints: {_tail()}")
        return finding or self._grown()

    def _grown(self) -> Finding | None:
        if self._before is None or self._memory is None or _peak() - self._before <= self._memory:
            return None
        self._before = _peak()
        return Finding("memory", f"{self._before} bytes at most")

    def _outcome(self, data: bytes) -> Finding | None:
        try:
            self._read(self._folder, data)
        except MsdmError as error:
            if self._addresses and any(_is_memory(cause) for cause in _causes(error)):
                return Finding(f"memory at {_place(error)}", str(error)[:200])
            text = str(error)
            if not text.isprintable():
                return Finding(f"message that is no plain line, at {_place(error)}", text[:200])
            if len(text) > LONGEST:
                return Finding(f"message of more than {LONGEST} characters, at {_place(error)}", text[:200])
        except TooSlow as error:
            return Finding("too slow", _place(error))
        except Exception as error:
            if any(_is_memory(cause) for cause in _causes(error)):
                return Finding(f"memory at {_place(error)}", str(error)[:200])
            return Finding(f"{type(error).__name__} at {_place(error)}", str(error)[:200])
        return None

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        """What Python tells of files and processes."""
        if event == "open":
            path, mode, flags = args
            if isinstance(path, int) or not (flags & _WRITES if isinstance(flags, int) else mode not in "rb"):
                return
            self._check(event, path)
        elif event in _ALTERS:
            for path in args[: _ALTERS[event]]:
                self._check(event, path)
        elif event.startswith(_NEVER):
            self._broken.append(f"{event} {args!r:.80}")

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, int):
            return
        real = os.path.realpath(os.fsdecode(path))
        if not (real + os.sep).startswith(self._inside + os.sep) and real != os.devnull:
            self._broken.append(f"{event} of .../{Path(real).name}, which is not in the folder")


_watching: list[Watch] = []


@cache
def _install() -> None:
    """One hook for all, as a hook stays for good."""
    sys.addaudithook(lambda event, args: _watching[0].audit(event, args) if _watching else None)


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlow(f"more than {SECONDS} s of processor time")


def _place(error: BaseException) -> str:
    """Where it was raised: the last place in this project, and the last of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "benchmarks" not in f.filename and "site-packages" not in f.filename]
    places = [f"{Path(f.filename).name}:{f.lineno}" for f in (own[-1:] + frames[-1:])]
    return " <- ".join(dict.fromkeys(reversed(places)))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "allocate memory" in str(error)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _printed() -> tuple[int, ...]:
    """How long the files are that standard output and error go to; nothing of what is no file."""
    sys.stdout.flush()
    sys.stderr.flush()
    return tuple(os.fstat(number).st_size for number in (1, 2))


def _tail() -> str:
    try:
        lines = Path("/proc/self/fd/2").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "".join(c for c in lines[-1][:60] if not c.isdigit()) if lines else ""
