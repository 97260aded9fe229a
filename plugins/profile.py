"""Where the time of a training step goes: a few steps on real data, and nothing is written."""

import math
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..core.denoiser import Denoiser
from ..core.loader import Batch, TrainingStream, make_loader
from ..core.optimise import Optimiser
from ..core.precision import native_bf16
from ..core.recipe import Recipe
from .check import check_plugins
from .data import data_folder
from .device import cores, pick_device
from .estimate import choose_checkpointing
from .meta_pass import meta_denoiser, model_flops
from .profile_parts import BACKWARD, attribute, regions, tracer
from .recipe_files import load_recipe
from .splits import open_splits
from .stopping import stop_event
from .training import loader_workers, new_denoiser, place, total_steps

WARM_STEPS = 2
TIMED_STEPS = (3, 20)
"""At least, and at most."""
TIMED_SECONDS = 3.0
"""How long is timed, where the number of steps allows."""
TIMED_CROPS = 8

WAIT, IDLE = "waiting for data", "device idle"


@dataclass(frozen=True)
class StepProfile:
    """Where an optimiser step's time goes.

    Attributes
    ----------
    device : str
    seconds : float
        Of one optimiser step, data included; mean over the timed steps, without a profiler.
    images : int
        Crops per optimiser step.
    parts : dict of str -> float
        Seconds by part of the step; they add up to `seconds`. What the profiler saw of one more step, scaled
        to the time that a step takes without it.
    crop : dict of str -> float
        Seconds on one core to make one crop: ``read and augment``, then each condition's observation.
    workers : int
        Processes that make crops.
    checkpointing : bool
    memory : int or None
        Peak bytes: of PyTorch's allocator on CUDA, of the whole process on a CPU (None where unknown).
    flops : int or None
        Floating-point operations of the model in one step, recomputation left out; None where unknown.
    peak_flops : float
        Operations per second of a large matrix product on this device in the precision of training.
    notes, advice : tuple of str
    """

    device: str
    seconds: float
    images: int
    parts: dict[str, float]
    crop: dict[str, float]
    workers: int
    checkpointing: bool
    memory: int | None
    flops: int | None
    peak_flops: float
    notes: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    def share(self, part: str) -> float:
        """Of the step's time, 0 to 1."""
        return self.parts.get(part, 0.0) / self.seconds


def profile_training(
    recipe: Recipe | str | Path,
    data: str | Path = "histology-nuclei",
    *,
    device: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> StepProfile:
    """Train a few steps, and say where their time goes; nothing is written.

    Parameters
    ----------
    recipe : Recipe, str or Path
    data, device
        As `train` takes them.
    on_progress : callable (done, total) or None
        Called after each field that is checked.

    Returns
    -------
    StepProfile

    Raises
    ------
    MsdmError
        As `train`.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    check_plugins(recipe)
    splits = open_splits(recipe, data_folder(str(data)), on_progress=on_progress)
    target = pick_device(device)
    meta = meta_denoiser(recipe, rows=splits.train.rows)
    needless = _checkpoints_needlessly(meta, recipe, target)
    denoiser, notes = place(recipe, new_denoiser(recipe, splits.train), target)
    drop = {name: entry.drop for name, entry in recipe.conditioners.items()}
    optimiser = Optimiser(denoiser, recipe.train, total=total_steps(recipe, len(splits.train)), drop=drop)
    stream = TrainingStream(splits.train, denoiser.by_name, recipe.data, recipe.train.seed)
    crop = _time_crops(stream)
    workers = loader_workers(recipe.train, target)
    seconds, waited, parts = _run(recipe, optimiser, stream, workers)
    per_pass = model_flops(meta, recipe)
    found = StepProfile(
        device=str(target),
        seconds=seconds,
        images=recipe.train.batch * recipe.train.accumulate,
        parts=_fill(parts, seconds, waited, device_time=target.type == "cuda"),
        crop=crop,
        workers=workers,
        checkpointing=denoiser.backbone.checkpointing,
        memory=_peak_memory(target),
        flops=None if per_pass is None else per_pass * recipe.train.accumulate,
        peak_flops=_peak_flops(target, bf16=recipe.train.precision == "bf16" and native_bf16(target)),
        notes=(*splits.notes, *notes),
    )
    slow = recipe.train.precision == "fp32" and native_bf16(target)
    return replace(found, advice=tuple(advise(found, needless=needless, bf16_would_do=slow, cores=cores())))


def advise(profile: StepProfile, *, needless: bool, bf16_would_do: bool, cores: int) -> list[str]:
    """What the numbers say should be changed; one line each, at least one.

    Parameters
    ----------
    profile : StepProfile
    needless : bool
        Checkpointing is on, and the memory would do without.
    bf16_would_do : bool
        Training is in fp32, and the device computes bf16 itself.
    cores : int
        CPU cores.
    """
    lines = []
    wait, recomputed = profile.share(WAIT), profile.share(f"{BACKWARD}: recomputed")
    if wait > 0.1:
        busy = profile.seconds * (1 - wait)
        wanted = max(1, math.ceil(sum(profile.crop.values()) * profile.images / busy))
        most = max(cores - 1, 1)
        if profile.workers < min(wanted, most):
            cure = f"set train.workers={min(wanted, most)}"
        else:
            dearest = max(profile.crop, key=lambda name: profile.crop[name])
            cure = f"of a crop's time most is '{dearest}', {1e3 * profile.crop[dearest]:.1f} ms"
        lines.append(f"data waits are {wait:.0%} of the step: {cure}")
    if recomputed > 0.05:
        cure = (
            "memory would do without: set train.checkpointing=auto"
            if needless
            else "halving train.batch and doubling train.accumulate may do without"
        )
        lines.append(f"checkpointing costs {recomputed:.0%} of the step: {cure}")
    if profile.share(IDLE) > 0.15:
        lines.append(f"the device is idle {profile.share(IDLE):.0%} of the step: raise train.batch")
    if bf16_would_do:
        lines.append(f"{profile.device} computes bf16: train.precision=bf16 is faster and takes less memory")
    if not lines:
        most_of = max(profile.parts, key=lambda part: profile.parts[part])
        lines.append(f"nothing stands out: most is '{most_of}', {profile.share(most_of):.0%} of the step")
    return lines


def _checkpoints_needlessly(meta: Denoiser, recipe: Recipe, device: torch.device) -> bool:
    """Whether the recipe turns checkpointing on where `auto` would not."""
    if recipe.train.checkpointing is not True:
        return False
    open_choice = recipe.train.model_copy(update={"checkpointing": "auto"})
    return not choose_checkpointing(meta, recipe.model_copy(update={"train": open_choice}), device).on


def _time_crops(stream: TrainingStream) -> dict[str, float]:
    """Seconds to make one crop, by part, in this process."""
    spent = dict.fromkeys(stream.conditioners, 0.0)
    stream[0]  # what is only read or built once
    began = time.perf_counter()
    for n in range(TIMED_CROPS):
        sample = stream.sample(n)
        for name, conditioner in stream.conditioners.items():
            start = time.perf_counter()
            conditioner.observe(sample)
            spent[name] += time.perf_counter() - start
    whole = time.perf_counter() - began
    rest = {"read and augment": whole - sum(spent.values())}
    return {name: seconds / TIMED_CROPS for name, seconds in (rest | spent).items()}


def _run(
    recipe: Recipe, optimiser: Optimiser, stream: TrainingStream, workers: int
) -> tuple[float, float, dict[str, float]]:
    """Seconds of a step, seconds of them waited for data, and what the profiler saw by part."""
    section, cuda = recipe.train, optimiser.device.type == "cuda"
    # The first profiled step on a GPU starts its tracing up.
    profiled = 2 if cuda else 1
    steps = WARM_STEPS + TIMED_STEPS[1] + profiled
    loader = make_loader(stream, optimiser.share.batches(0, steps), workers=workers, pin=cuda)
    # An interrupt in the middle of a fork would be lost.
    with stop_event() as stop, closing(iter(loader)) as batches:

        def fetch() -> list[Batch]:
            if stop.is_set():
                raise KeyboardInterrupt
            return [next(batches) for _ in range(section.accumulate)]

        def settle() -> float:
            if cuda:
                torch.cuda.synchronize(optimiser.device)
            return time.perf_counter()

        for _ in range(WARM_STEPS):
            optimiser.step(fetch())
        began, waited, done = settle(), 0.0, 0
        while done < TIMED_STEPS[0] or (
            done < TIMED_STEPS[1] and time.perf_counter() - began < TIMED_SECONDS
        ):
            start = time.perf_counter()
            fetched = fetch()
            waited += time.perf_counter() - start
            optimiser.step(fetched)
            done += 1
        seconds = settle() - began
        parts: dict[str, float] = {}
        for _ in range(profiled):
            fetched = fetch()
            with tracer(optimiser.device) as trace, regions(optimiser.denoiser):
                optimiser.step(fetched)
                settle()
            parts = attribute(trace.events(), device_time=cuda)
    return seconds / done, waited / done, parts


def _fill(parts: dict[str, float], seconds: float, waited: float, *, device_time: bool) -> dict[str, float]:
    """Parts that add up to `seconds`: on a CPU stretched to them, on a GPU filled up with idle time."""
    left, seen = seconds - waited, sum(parts.values())
    idle = max(0.0, left - seen) if device_time else 0.0
    factor = (left - idle) / seen
    filled = {WAIT: waited} | {name: factor * value for name, value in parts.items()}
    return filled | ({IDLE: idle} if device_time else {})


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # no Unix
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _peak_flops(device: torch.device, *, bf16: bool) -> float:
    """Operations per second of the best of a few matrix products."""
    n = 8192 if device.type == "cuda" else 1024
    a = torch.ones(n, n, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    best = math.inf
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best
