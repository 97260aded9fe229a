"""The device to compute on, and what it has to spare."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from ..core.errors import MsdmError
from ..core.processes import processes

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_STATUS = Path("/proc/self/status")
HEAP = 1.12
"""On a CPU: bytes that the process holds for each byte of tensors that come and go (`benchmarks.memory`)."""
FIRST_USE = 60 * 2**20
"""On a CPU: bytes that libraries take when training first calls them (`benchmarks.memory`)."""
_UNKNOWN = 4 * 2**30
"""Bytes that are taken to be free where the system does not say."""


def pick_device(name: str | None) -> torch.device:
    """A device by name; None takes a CUDA device where there is one, otherwise the CPU.

    Of the processes of a job, each takes the GPU of its number on this machine where none is numbered.

    Raises
    ------
    MsdmError
        There is no such device here.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    here = processes()
    if name == "cuda" and here.count > 1:
        name = f"cuda:{here.local_rank}"
    try:
        device = torch.device(name)
        if device.type == "meta":  # has shapes and no numbers
            raise RuntimeError
        torch.empty(0, device=device)
        if device.type == "cuda" and here.count > 1:
            torch.cuda.set_device(device)  # where NCCL sends from
    except (RuntimeError, AssertionError, NotImplementedError):
        legal = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise MsdmError(f"no device {name!r} here; legal: {', '.join(legal)}") from None
    return device


def cores() -> int:
    """CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def loader_processes(device: torch.device) -> int:
    """How many processes load and observe crops where a recipe does not say.

    For a GPU one per core but the main process's, at most 8. On the CPU training itself takes the cores: the
    loader gets those that PyTorch's threads leave idle, at most 2, and none on a machine of one or two cores.
    """
    if device.type != "cpu":
        return max(0, min(8, cores() - 1))
    return 0 if cores() <= 2 else max(0, min(2, cores() - torch.get_num_threads()))


def free_memory(device: torch.device) -> int:
    """Bytes that this process could still take on a device.

    CUDA: what the driver reports as free, and what PyTorch's allocator holds in reserve. CPU: the system's
    available memory, or what limits of the process's control group or address space leave, whichever is
    least; half of the physical memory where the system tells no more, and 4 GiB where it does not tell that.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return max(0, min([_available(), *_left_of_limits(), *_left_of_addresses()]))


def held_memory(device: torch.device) -> int:
    """Bytes that this process holds on a device now.

    CUDA: of PyTorch's allocator. CPU: what is resident, libraries included; 0 where the system does not tell.
    """
    return int(torch.cuda.memory_allocated(device)) if device.type == "cuda" else _status("VmRSS")


def readable_size(size: int) -> str:
    """A number of bytes as people read it, such as ``1.5 GiB``."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _status(name: str) -> int:
    """A figure of this process in bytes; 0 where the system does not tell."""
    try:
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0


def _left_of_addresses() -> Iterator[int]:
    """What a limit of the process's address space leaves, as ``ulimit -v`` and batch systems set it."""
    try:
        import resource
    except ImportError:  # no Unix
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield limit - _status("VmSize")


def _available() -> int:
    try:
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN


def _left_of_limits() -> Iterator[int]:
    """What each control group above the process leaves of its limit, in version 2 and in version 1.

    The cache of files counts as used there, and is given back when memory is asked for.
    """
    try:
        lines = _CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            root = _CGROUPS / "memory"
        else:
            continue
        group = root / path.lstrip("/")
        # within a container the path may be that of the host, and its own group the root
        for folder in (group, *(p for p in group.parents if p == root or root in p.parents)):
            try:
                limit, used = (int((folder / name).read_text(encoding="ascii")) for name in names[:2])
                stat = dict(s.split() for s in (folder / "memory.stat").read_text("ascii").splitlines())
            except (OSError, ValueError):  # no such group, no limit ("max")
                continue
            yield limit - used + int(stat.get(names[2], 0))
