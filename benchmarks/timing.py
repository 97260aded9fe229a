"""What every benchmark shares: interleaved medians, the line that names the machine, tables, peak memory."""

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]


def machine(device: str | torch.device = "cpu") -> str:
    """CPU model, threads, versions and device, in one line."""
    device = torch.device(device)
    cuda = device.type == "cuda"
    where = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}" if cuda else device.type
    threads = torch.get_num_threads()
    plural = "" if threads == 1 else "s"
    return (
        f"{_cpu()}, {threads} thread{plural}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {where}"
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    warm: int = 1,
    device: str | torch.device = "cpu",
) -> dict[str, list[float]]:
    """Seconds of each call, `repeats` times, in turns: what else the machine does then hits all alike.

    On a CPU with one thread it is the process's own time, which is that of the clock on a quiet machine and
    leaves out what others took on a busy one.

    Parameters
    ----------
    calls : mapping name -> callable
    repeats : int
    warm : int
        Rounds before those that count.
    device : str or torch.device
        A GPU's queue is empty before and after each call.

    Returns
    -------
    dict of name -> list of float
    """
    cuda = torch.device(device).type == "cuda"
    clock = time.perf_counter if cuda or torch.get_num_threads() > 1 else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm + repeats):
        for name, call in calls.items():
            if cuda:
                torch.cuda.synchronize(device)
            began = clock()
            call()
            if cuda:
                torch.cuda.synchronize(device)
            if turn >= warm:
                seconds[name].append(clock() - began)
    return seconds


def speedup(base: Sequence[float], other: Sequence[float]) -> float:
    """How many times faster `other` is than `base`: the median of the ratios of interleaved times."""
    return statistics.median(b / o for b, o in zip(base, other, strict=True))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference over the largest value of `b`."""
    a, b = a.double().cpu(), b.double().cpu()
    return float((a - b).abs().max() / b.abs().max())


def head(*columns: str) -> None:
    """Print the head of a markdown table."""
    row(*columns)
    row(*("---" for _ in columns))


def row(*cells: object) -> None:
    """Print a row of a markdown table at once, so that a long run shows how far it is."""
    print("|" + "|".join(f" {c} " if str(c) != "---" else "---" for c in cells) + "|", flush=True)


def peak_mib() -> float:
    """Peak resident memory of this process so far, MiB."""
    # not getrusage where there is a choice: Linux lets a child inherit its parent's peak
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def fresh(module: str, *arguments: object) -> dict[str, Any]:
    """What ``python -m benchmarks.MODULE ARGUMENTS`` prints last, as JSON, from a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
