"""CUDA C++ compiled at run time by NVRTC and launched through the driver, by what torch brings and no more.

`torch.cuda._compile_kernel` does the same but wants an installed CUDA toolkit (its include folder), which
most machines that run torch do not have. Our sources include nothing, so that NVRTC itself, on which torch's
wheels depend, is enough; `ctypes` calls it and the driver.
"""

import ctypes
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

Shape = tuple[int, int, int]
Argument = Tensor | int | float | None

_log = logging.getLogger("msdm_kit")


class Launch(Protocol):
    """Starts a kernel: what `Module` does on a GPU, and an emulation in the tests."""

    def __call__(
        self, name: str, grid: Shape, block: Shape, args: Sequence[Argument], shared: int
    ) -> None: ...


class NvrtcError(RuntimeError):
    """NVRTC or the driver refused."""


@cache
def read_source(*names: str) -> str:
    """The text of source files of this folder, one after another."""
    return "\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in names)


@cache
def _nvrtc() -> ctypes.CDLL:
    """The NVRTC library of the CUDA version that torch was built for."""
    major = (torch.version.cuda or "0").partition(".")[0]
    # by its name where torch has loaded it or the system knows it; else where NVIDIA's wheels put it
    site = Path(torch.__file__).parents[1]
    places = [f"libnvrtc.so.{major}", f"nvrtc64_{major}0_0.dll"]
    places += [str(p) for p in sorted(site.glob(f"nvidia/*/lib/libnvrtc.so.{major}*"))]
    places += [str(p) for p in sorted(site.glob(f"torch/lib/nvrtc64_{major}*.dll"))]
    for place in places:
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    raise NvrtcError(f"no NVRTC library for CUDA {torch.version.cuda}")


def compile_source(source: str, names: Sequence[str], arch: str) -> tuple[bytes, dict[str, str]]:
    """Machine code of the named kernels. Needs no GPU.

    Parameters
    ----------
    source : str
        CUDA C++ without includes.
    names : sequence of str
        Kernels, templates with their arguments: ``"norm_statistics<float, 4>"``.
    arch : str
        The compute capability, e.g. ``"90"``.

    Returns
    -------
    code : bytes
    symbols : dict
        Name -> the name in the machine code.

    Raises
    ------
    NvrtcError
        With NVRTC's log.
    """
    lib = _nvrtc()

    def check(result: int, what: str) -> None:
        if result:
            lib.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise NvrtcError(f"{what}: {lib.nvrtcGetErrorString(result).decode()}")

    program = ctypes.c_void_p()
    options = [f"--gpu-architecture=sm_{arch}", "--std=c++17"]
    words = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    given = (source.encode(), b"msdm_kit.cu", 0, None, None)
    check(lib.nvrtcCreateProgram(ctypes.byref(program), *given), "create")
    try:
        for name in names:
            check(lib.nvrtcAddNameExpression(program, name.encode()), name)
        failed = lib.nvrtcCompileProgram(program, len(options), words)
        size = ctypes.c_size_t()
        if failed:
            lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            text = ctypes.create_string_buffer(size.value)
            lib.nvrtcGetProgramLog(program, text)
            raise NvrtcError(text.value.decode(errors="replace"))
        check(lib.nvrtcGetCUBINSize(program, ctypes.byref(size)), "size")
        code = ctypes.create_string_buffer(size.value)
        check(lib.nvrtcGetCUBIN(program, code), "code")
        symbols = {}
        for name in names:
            symbol = ctypes.c_char_p()
            check(lib.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(symbol)), name)
            symbols[name] = (symbol.value or b"").decode()
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))
    return code.raw, symbols


@cache
def _driver() -> ctypes.CDLL:
    for place in ("libcuda.so.1", "nvcuda.dll"):
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    raise NvrtcError("no CUDA driver")


def _check(result: int) -> None:
    if result:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(result, ctypes.byref(text))
        raise NvrtcError((text.value or b"unknown CUDA error").decode())


def pack(args: Sequence[Argument]) -> tuple["ctypes.Array[ctypes.c_void_p]", list[object]]:
    """Arguments as a launch wants them, addresses, and what must live until the launch has returned.

    A tensor is passed as its address, None as a null pointer, an int as 32 bits, a float as fp32.
    """
    cells: list[ctypes.c_void_p | ctypes.c_int | ctypes.c_float] = []
    for arg in args:
        if arg is None:
            cells.append(ctypes.c_void_p(None))
        elif isinstance(arg, Tensor):
            cells.append(ctypes.c_void_p(arg.data_ptr()))
        elif isinstance(arg, int):
            cells.append(ctypes.c_int(arg))
        else:
            cells.append(ctypes.c_float(arg))
    return (ctypes.c_void_p * len(cells))(*(ctypes.addressof(c) for c in cells)), list(cells)


class Module:
    """Compiled kernels on one GPU. Launches go to torch's current stream, also while a graph captures it."""

    _MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _FREE_SHARED = 48 * 1024  # what a kernel may have without asking

    def __init__(self, source: str, names: Sequence[str], device: int) -> None:
        major, minor = torch.cuda.get_device_capability(device)
        code, symbols = compile_source(source, names, f"{major}{minor}")
        lib, handle = _driver(), ctypes.c_int()
        _check(lib.cuDeviceGet(ctypes.byref(handle), device))
        # torch works in the primary context; a fresh thread has none until it calls the runtime
        self.context, self.device = ctypes.c_void_p(), device
        _check(lib.cuDevicePrimaryCtxRetain(ctypes.byref(self.context), handle))
        self.functions: dict[str, ctypes.c_void_p] = {}
        self.shared: dict[str, int] = {}
        _check(lib.cuCtxPushCurrent_v2(self.context))
        try:
            module = ctypes.c_void_p()
            _check(lib.cuModuleLoadData(ctypes.byref(module), code))
            for name, symbol in symbols.items():
                function = ctypes.c_void_p()
                _check(lib.cuModuleGetFunction(ctypes.byref(function), module, symbol.encode()))
                self.functions[name] = function
        finally:
            lib.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def __call__(self, name: str, grid: Shape, block: Shape, args: Sequence[Argument], shared: int) -> None:
        lib, function = _driver(), self.functions[name]
        addresses, alive = pack(args)
        stream = ctypes.c_void_p(torch.cuda.current_stream(self.device).cuda_stream)
        _check(lib.cuCtxPushCurrent_v2(self.context))
        try:
            if shared > max(self._FREE_SHARED, self.shared.get(name, 0)):
                _check(lib.cuFuncSetAttribute(function, self._MAX_DYNAMIC_SHARED, shared))
                self.shared[name] = shared
            _check(lib.cuLaunchKernel(function, *grid, *block, shared, stream, addresses, None))
        finally:
            lib.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        del alive


def _load(source: str, names: tuple[str, ...], device: int) -> Module | None:
    try:
        return Module(source, names, device)
    except (NvrtcError, OSError, AttributeError, RuntimeError) as error:
        _said(f"no CUDA kernels, plain torch instead: {str(error).splitlines()[0]}")
        return None


@cache
def _said(text: str) -> None:
    _log.warning(text)


def load(source: str, names: tuple[str, ...], device: torch.device) -> Module | None:
    """The kernels on a device, compiled once per process; None, said once in the log, where that fails.

    Loading code is not allowed while a stream is captured, so that a graph's warm-up must come before: a
    module that is not loaded yet is None then, and is tried again later.
    """
    if torch.version.hip is not None or device.type != "cuda":
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    key = (source, names, index)
    if key not in _LOADED:
        if torch.cuda.is_current_stream_capturing():
            _said("CUDA kernels were not loaded before the capture of a graph: it holds plain torch instead")
            return None
        _LOADED[key] = _load(*key)
    return _LOADED[key]


_LOADED: dict[tuple[str, tuple[str, ...], int], Module | None] = {}


@cache
def multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that one block may have."""
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)
