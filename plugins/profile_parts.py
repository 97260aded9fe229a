"""The parts of a training step, by regions that the profiler sees, and its events by part."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import FunctionEvent
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from ..core.attention import CrossAttention, SelfAttention
from ..core.denoiser import Denoiser
from ..core.injection import Injector
from ..core.norm import SiteNorm

BACKWARD = "backward"

_NAMES = {
    "draw": "noise and time steps",
    "latents": "images encoded",
    "encode": "conditions encoded",
    "network": "network, other",
    "encoder": "encoder",
    "decoder": "decoder",
    "loss": "loss",
    "backward": BACKWARD,
    "clip": "gradient norm and clipping",
    "optimiser": "optimiser",
    "ema": "averaged weights",
}
_FAMILIES = (
    # Of autograd's nodes, by what is in their names; the first that fits.
    ("convolutions", ("convolution",)),
    ("attention", ("attention", "softmax", "scaleddot")),
    ("normalisation and modulation", ("norm", "silu")),
    ("matrix products", ("addmm", "mmbackward", "bmm")),
)
_KINDS = (*(family for family, _ in _FAMILIES), "conditions prepared", "recomputed", "other", "")
_NODE = "autograd::engine::evaluate_function: "


def tracer(device: torch.device) -> torch.profiler.profile:
    """A profiler of the CPU, and of the GPU if the device is one."""
    # Otherwise it speaks on standard error of the GPU that is not there.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    return torch.profiler.profile(activities=kinds, acc_events=True)


@contextmanager
def regions(denoiser: Denoiser) -> Iterator[None]:
    """Within the block the profiler sees where in the network an operation stands; nothing else changes."""
    kinds: tuple[tuple[Any, str], ...] = (
        (_ConvNd, "convolutions"),
        ((SelfAttention, CrossAttention), "attention"),
        ((SiteNorm, nn.GroupNorm), "normalisation and modulation"),
    )
    open_ranges: list[record_function] = []

    def enter(module: nn.Module, args: Any) -> None:
        kind = next((name for cls, name in kinds if isinstance(module, cls)), "module")
        region = record_function(f"network.{kind}")
        region.__enter__()  # type: ignore[no-untyped-call]
        open_ranges.append(region)

    # recomputation under checkpointing leaves a module by an exception once it has what it wants
    def leave(module: nn.Module, args: Any, out: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    injectors = [m for m in denoiser.modules() if isinstance(m, Injector)]
    patched: list[tuple[nn.Module, str, str]]
    patched = [(denoiser.backbone, "encode", "encoder"), (denoiser.backbone, "decode", "decoder")]
    patched += [(injector, "prepare", "conditions prepared") for injector in injectors]
    patched += [
        (injector, "inject", "normalisation and modulation")
        for injector in injectors
        if injector.site.kind == "norm"
    ]
    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        for owner, method, name in patched:
            setattr(owner, method, _within(f"network.{name}", getattr(owner, method)))
        with record_function("step"):
            yield
    finally:
        for owner, method, _ in patched:
            owner.__dict__.pop(method, None)
        for handle in handles:
            handle.remove()


def _within(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(name):
            return function(*args, **kwargs)

    return call


def attribute(events: Iterable[FunctionEvent], *, device_time: bool) -> dict[str, float]:
    """Seconds by part of a step, in the order of the step.

    Parameters
    ----------
    events : iterable of FunctionEvent
        What the profiler saw of a step within `regions`.
    device_time : bool
        Count the time of kernels, otherwise that of the CPU.

    Returns
    -------
    dict of str -> float
        Parts without time are left out.
    """
    known: dict[int, tuple[str, str]] = {}
    spent: dict[tuple[str, str], float] = {}

    def place(event: FunctionEvent) -> tuple[str, str]:
        if id(event) not in known:
            parent = event.cpu_parent
            # autograd's own thread on a GPU: there nothing stands around its nodes
            above = (BACKWARD, "") if parent is None and event.name.startswith(_NODE) else ("", "")
            known[id(event)] = _place(event.name, *(above if parent is None else place(parent)))
        return known[id(event)]

    for event in events:
        if event.device_type.name != "CPU" or event.is_async:
            continue
        where = place(event)
        time = event.self_device_time_total if device_time else event.self_cpu_time_total
        if _inside(event):
            spent[where] = spent.get(where, 0.0) + 1e-6 * time
    phases = [*_NAMES, ""]
    named: dict[str, float] = {}
    for (phase, kind), seconds in sorted(
        spent.items(), key=lambda item: (phases.index(item[0][0]), _KINDS.index(item[0][1]))
    ):
        if seconds <= 0:
            continue
        name = _NAMES.get(phase, "other")
        if phase in ("encoder", "decoder", BACKWARD):
            name = f"{name}: {kind or 'other'}"
        named[name] = named.get(name, 0.0) + seconds
    return named


def _inside(event: FunctionEvent) -> bool:
    """Whether an event is of the step: within its region, or on autograd's thread."""
    while event.cpu_parent is not None:
        event = event.cpu_parent
    return event.name == "step" or event.name.startswith(_NODE)


def _place(name: str, phase: str, kind: str) -> tuple[str, str]:
    """Phase and kind of an event below one of this phase and kind."""
    first, _, rest = name.partition(".")
    if first == "step":
        return (rest, "") if rest else (phase, kind)
    if first == "network" and phase == BACKWARD:
        return phase, "recomputed"
    if first == "network" and rest in ("encoder", "decoder"):
        return rest, ""
    if first == "network" and rest != "module" and phase in ("encoder", "decoder"):
        return phase, kind or rest  # a convolution within attention is of attention
    if name.startswith(_NODE):
        node = name.removeprefix(_NODE).lower()
        family = next((family for family, marks in _FAMILIES if any(m in node for m in marks)), "other")
        return BACKWARD, kind if kind == "recomputed" else family
    return phase, kind
