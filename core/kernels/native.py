"""The normalisation kernel on a CPU: norm.cpp, compiled once by the machine's own compiler.

The library has plain C functions and is called through ctypes. Its loops run on the threads of torch's own
OpenMP runtime, as many as `torch.get_num_threads()` says: no second pool. Nothing is compiled on import.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .norm_twin import EPS, Gradients

SOURCES = tuple(Path(__file__).with_name(name) for name in ("cpu.h", "norm.cpp"))
COMPILERS = ("g++", "c++", "clang++")
BASE = ("-O3", "-std=c++17", "-ffp-contract=fast", "-shared", "-fPIC")
# the second where the compiler does not know the machine
FLAGS = ((*BASE, "-march=native"), BASE)
TIMEOUT = 120.0

_log = logging.getLogger("msdm_kit")


class CompilerError(Exception):
    """A compiler does not start, fails, or takes too long."""


def cache_folder() -> Path:
    """Where compiled kernels are kept: $MSDM_KIT_CACHE, $XDG_CACHE_HOME/msdm-kit or ~/.cache/msdm-kit."""
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
    """Standard output of a command.

    Raises
    ------
    CompilerError
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
    except subprocess.TimeoutExpired as e:
        raise CompilerError(f"{command[0]} took more than {TIMEOUT:.0f} s") from e
    except OSError as e:
        raise CompilerError(str(e)) from e
    if done.returncode:
        line = next((x for x in done.stderr.splitlines() if "error" in x), f"exit status {done.returncode}")
        raise CompilerError(f"{command[0]}: {line.strip()}")
    return done.stdout


def build(compiler: list[str], flags: tuple[str, ...], folder: Path) -> Path:
    """The compiled library in `folder`, compiled now unless it is there.

    Its name holds a hash of all that it depends on: sources, compiler, flags, processor. It appears under
    that name complete: two processes may compile at once.

    Raises
    ------
    CompilerError
    OSError
        `folder` cannot be written, or anyone may write to it.
    """
    version = _run([*compiler, "--version"])
    parts = [
        *(p.read_bytes() for p in SOURCES),
        version.encode(),
        repr(flags).encode(),
        _processor().encode(),
    ]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]
    target = folder / f"norm-{digest}.so"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_mode & 0o002:
        raise PermissionError(f"anyone may write to {folder}: it may hold libraries that are not ours")
    if not target.is_file():
        with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as work:
            made = Path(work) / target.name
            _run([*compiler, *flags, str(SOURCES[-1]), "-o", str(made)])
            os.replace(made, target)
    return target


def _load(path: Path) -> ctypes.CDLL:
    """The library, its functions declared."""
    library = ctypes.CDLL(str(path))
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.msdm_norm_forward.argtypes = [
        *(pointer, integer, integer, pointer, integer, ctypes.c_double),
        *[pointer] * 9,
    ]
    library.msdm_norm_backward.argtypes = [*(pointer, integer, integer, pointer, integer), *[pointer] * 15]
    return library


def _attempt(compiler: list[str], flags: tuple[str, ...]) -> ctypes.CDLL:
    """Compile and load, from the cache or, where that cannot be used, from a folder of this process."""
    try:
        return _load(build(compiler, flags, cache_folder()))
    except (OSError, RuntimeError) as e:  # RuntimeError: a user without a home
        _log.info("kernels are compiled by each process: %s", e)
        with tempfile.TemporaryDirectory(prefix="msdm-kit-") as own:
            return _load(build(compiler, flags, Path(own)))


@cache
def library() -> ctypes.CDLL | None:
    """The kernel, compiled at the first call; None, said once in the log, where that fails."""
    reason = "no C++ compiler found"
    for compiler in compilers():
        for flags in FLAGS:
            try:
                return _attempt(compiler, flags)
            except (CompilerError, OSError) as e:
                reason = str(e)
    _log.info("norms run in plain torch on the CPU: %s", reason)
    return None


@cache
def _parallel() -> int | None:
    """Address of GOMP_parallel in the OpenMP runtime that torch itself uses; None: one thread."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        try:
            # looked up in that library and what it was linked with: never another copy of the runtime
            return ctypes.cast(ctypes.CDLL(str(folder / name)).GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    return None


def available(h: Tensor) -> bool:
    """Whether the kernel takes `h`: fp32 or bf16 and channels_last on a CPU, and the kernel compiles."""
    return (
        h.dtype in (torch.float32, torch.bfloat16)
        and h.numel() > 0
        and h.is_contiguous(memory_format=torch.channels_last)
        and library() is not None
    )


def _pointer(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


def _plain(t: Tensor | None, *shape: int) -> Tensor | None:
    """As the kernel reads it, which sees no more than an address."""
    if t is None:
        return None
    if t.shape != shape or t.dtype != torch.float32:
        raise ValueError(f"{t.dtype} of shape {tuple(t.shape)} where the kernel reads fp32 of shape {shape}")
    return t.contiguous()


def _map(t: Tensor | None, h: Tensor) -> tuple[Tensor | None, tuple[int, int, int]]:
    """gamma_beta, its samples channels_last; its size, and elements between samples (0: one row for all)."""
    if t is None:
        return None, (1, 1, 0)
    if t.shape[0] not in (1, h.shape[0]) or t.shape[1] != 2 * h.shape[1] or t.dtype != h.dtype:
        raise ValueError(f"{t.dtype} of shape {tuple(t.shape)} modulates no {h.dtype} of {tuple(h.shape)}")
    if t.stride(0) == 0:
        t = t[:1]
    t = t.contiguous(memory_format=torch.channels_last)
    rows, c, height, width = t.shape
    return t, (height, width, c * height * width if rows > 1 else 0)


def _common(h: Tensor, groups: int, patch: tuple[int, int, int], silu: bool) -> tuple[object, ...]:
    """The arguments that both functions begin with."""
    b, c, height, width = h.shape
    shape = (ctypes.c_int64 * 8)(b, c, height, width, groups, *patch)
    return _parallel(), torch.get_num_threads(), h.dtype == torch.bfloat16, shape, silu


def _check(status: int) -> None:
    if status:
        raise MemoryError("the normalisation kernel found no memory for its sums")


def forward(
    h: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    gamma_beta: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `norm_twin.forward`, for an `h` that is `available`."""
    lib = library()
    assert lib is not None
    (b, c), (gamma_beta, patch) = h.shape[:2], _map(gamma_beta, h)
    weight, bias, scale, shift = _plain(weight, c), _plain(bias, c), _plain(scale, b, c), _plain(shift, b, c)
    out = torch.empty_like(h, memory_format=torch.channels_last)
    mean = h.new_empty((h.shape[0], groups), dtype=torch.float32)
    rstd = torch.empty_like(mean)
    given = (h, weight, bias, gamma_beta, scale, shift, out, mean, rstd)
    _check(lib.msdm_norm_forward(*_common(h, groups, patch, silu), EPS, *map(_pointer, given)))
    return out, mean, rstd


def backward(
    grad: Tensor,
    h: Tensor,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    gamma_beta: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
) -> Gradients:
    """As `norm_twin.backward`, for an `h` that is `available`."""
    lib = library()
    assert lib is not None
    dmap: Tensor | None = None
    if gamma_beta is not None:
        dmap = torch.empty_like(gamma_beta, memory_format=torch.channels_last)
    (b, c), (gamma_beta, patch) = h.shape[:2], _map(gamma_beta, h)
    weight, bias, scale, shift = _plain(weight, c), _plain(bias, c), _plain(scale, b, c), _plain(shift, b, c)
    if gamma_beta is not None and gamma_beta.shape[2:] != h.shape[2:]:
        raise ValueError("a patch has no gradient: expand it first")
    grad = grad.to(h.dtype).contiguous(memory_format=torch.channels_last)
    dh = torch.empty_like(h, memory_format=torch.channels_last)
    # summed over the batch in fp64
    dweight, dbias = (None if t is None else torch.zeros_like(t, dtype=torch.float64) for t in (weight, bias))
    dscale, dshift = (None if t is None else torch.empty_like(t) for t in (scale, shift))
    given = (grad, h, mean, rstd, weight, bias, gamma_beta, scale, shift)
    found = (dh, dweight, dbias, dmap, dscale, dshift)
    _check(lib.msdm_norm_backward(*_common(h, groups, patch, silu), *map(_pointer, (*given, *found))))
    return (
        dh,
        None if dweight is None else dweight.float(),
        None if dbias is None else dbias.float(),
        dmap,
        dscale,
        dshift,
    )
