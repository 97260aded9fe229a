"""C++ kernels for a CPU: compiled once by the machine's own compiler, kept in a cache, called through ctypes.

A library has plain C functions. Its loops run on the threads of torch's own OpenMP runtime: no second pool.
Nothing is compiled on import.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

COMPILERS = ("g++", "c++", "clang++")
BASE = ("-O3", "-std=c++17", "-ffp-contract=fast", "-shared", "-fPIC")
# the second where the compiler does not know the machine
FLAGS = ((*BASE, "-march=native"), BASE)
TIMEOUT = 120.0
HEADER = "cpu.h"
"""What every source includes."""

_log = logging.getLogger("msdm_kit")


class CompilerError(Exception):
    """A compiler does not start, fails, or takes too long."""


def cache_folder() -> Path:
    """Where things are kept that can be made again: $MSDM_KIT_CACHE, $XDG_CACHE_HOME/msdm-kit or
    ~/.cache/msdm-kit. Compiled kernels lie in its folder ``kernels``."""
    own = os.environ.get("MSDM_KIT_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "msdm-kit"


def compilers() -> list[list[str]]:
    """C++ compilers of this machine: $CXX, which may carry arguments, then the usual names."""
    own = shlex.split(os.environ.get("CXX", ""))
    found = [shutil.which(name) for name in COMPILERS]
    return [*([own] if own else []), *([path] for path in found if path)]


@cache
def _processor() -> str:
    """What ``-march=native`` depends on: a cache may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return "\n".join([platform.machine(), *sorted(kept)])


def _run(command: list[str]) -> str:
    """Standard output of a command, which is run again where it was killed.

    Where memory is short for a moment, a compiler is what the system kills; and a run that goes on without
    kernels rounds otherwise than before.

    Raises
    ------
    CompilerError
    """
    try:
        for _ in range(2):
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
            # a driver outlives the compiler proper, and says so
            if done.returncode >= 0 and not (done.returncode and "Killed" in done.stderr):
                break
    except subprocess.TimeoutExpired as e:
        raise CompilerError(f"{command[0]} took more than {TIMEOUT:.0f} s") from e
    except OSError as e:
        raise CompilerError(str(e)) from e
    if done.returncode:
        line = next((x for x in done.stderr.splitlines() if "error" in x), f"exit status {done.returncode}")
        raise CompilerError(f"{command[0]}: {line.strip()}")
    return done.stdout


def build(source: str, compiler: list[str], flags: tuple[str, ...], folder: Path) -> Path:
    """The compiled library of a source in `folder`, compiled now unless it is there.

    Its name holds a hash of all that it depends on: sources, compiler, flags, processor. It appears under
    that name complete: two processes may compile at once.

    Parameters
    ----------
    source : str
        Name of a file beside this one.
    compiler : list of str
    flags : tuple of str
    folder : Path

    Raises
    ------
    CompilerError
    OSError
        `folder` cannot be written; or it, or the library in it, is another user's or may be written by
        others: it may hold what is not ours, and loading a library runs it.
    """
    version = _run([*compiler, "--version"])
    path = Path(__file__).with_name(source)
    parts = [
        *(path.with_name(name).read_bytes() for name in (HEADER, source)),
        version.encode(),
        repr(flags).encode(),
        _processor().encode(),
    ]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]
    target = folder / f"{path.stem}-{digest}.so"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _check_private(folder)
    if os.path.lexists(target):
        _check_private(target)
    else:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as work:
            made = Path(work) / target.name
            _run([*compiler, *flags, str(path), "-o", str(made)])
            made.chmod(0o700)  # whatever the umask says
            os.replace(made, target)
    return target


def _check_private(path: Path) -> None:
    """Raise `PermissionError` where another user could have put something there."""
    if not hasattr(os, "geteuid"):
        return
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise PermissionError(f"{path} is a link: what it leads to may not be ours")
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user: it may hold libraries that are not ours")
    if found.st_mode & 0o022:
        raise PermissionError(f"others may write to {path}: it may hold libraries that are not ours")


def _attempt(source: str, compiler: list[str], flags: tuple[str, ...]) -> ctypes.CDLL:
    """Compile and load, from the cache or, where that cannot be used, from a folder of this process."""
    try:
        return ctypes.CDLL(str(build(source, compiler, flags, cache_folder() / "kernels")))
    except (OSError, RuntimeError) as e:  # RuntimeError: a user without a home
        _log.info("kernels are compiled by each process: %s", e)
        with tempfile.TemporaryDirectory(prefix="msdm-kit-") as own:
            return ctypes.CDLL(str(build(source, compiler, flags, Path(own))))


def load(source: str, otherwise: str) -> ctypes.CDLL | None:
    """The library of a source, compiled unless it is cached; None, said in the log, where that fails.

    Parameters
    ----------
    source : str
        Name of a file beside this one.
    otherwise : str
        What happens without it, for the log.
    """
    reason = "no C++ compiler found"
    for compiler in compilers():
        for flags in FLAGS:
            try:
                return _attempt(source, compiler, flags)
            except (CompilerError, OSError) as e:
                reason = str(e)
    _log.info("%s: %s", otherwise, reason)
    return None


@cache
def parallel() -> int | None:
    """Address of GOMP_parallel in the OpenMP runtime that torch itself uses; None: one thread."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        try:
            # looked up in that library and what it was linked with: never another copy of the runtime
            return ctypes.cast(ctypes.CDLL(str(folder / name)).GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    return None


def pointer(t: Tensor | None) -> int | None:
    """The address of a tensor's first value; None where there is no tensor."""
    return None if t is None else t.data_ptr()
