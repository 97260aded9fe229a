"""Training a recipe on a data set: the loop, and what it tells its listener."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..core.dataset import FieldDataset
from ..core.denoiser import Denoiser
from ..core.loader import TrainingStream, make_loader
from ..core.optimise import Optimiser, StepReport
from ..core.precision import native_bf16
from ..core.recipe import Recipe, TrainSection
from .build import build_conditioners, build_denoiser, collect_facts
from .check import check_plugins
from .data import data_folder
from .device import loader_processes, pick_device
from .estimate import choose_checkpointing
from .loggers.started import Loggers, start_loggers
from .meta_pass import meta_denoiser
from .recipe_files import load_recipe
from .run import Run
from .solver import load_solver
from .splits import open_splits
from .validation import Validation, by_level


@dataclass(frozen=True)
class Started:
    """The run is about to train: `done` of `total` optimiser steps are behind it."""

    total: int
    done: int
    parameters: int
    fields: int
    device: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """The k-th of n fields was read and checked."""

    done: int
    total: int


@dataclass(frozen=True)
class Validated:
    """Validation loss of the averaged weights, by noise level."""

    step: int
    losses: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Previewed:
    """A contact sheet was written."""

    step: int
    path: Path


@dataclass(frozen=True)
class Saved:
    """Weights and checkpoint were written."""

    step: int
    path: Path


@dataclass(frozen=True)
class Warned:
    """Something failed that the run does without."""

    text: str


Event = Started | Checked | StepReport | Validated | Previewed | Saved | Warned
Listener = Callable[[Event], None]


class Interrupted(Exception):
    """Training was asked to stop; everything is saved.

    Attributes
    ----------
    step : int
        Optimiser steps done.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


def total_steps(recipe: Recipe, fields: int) -> int:
    """Optimiser steps of a run over `fields` training fields."""
    section = recipe.train
    if section.steps is not None:
        return section.steps
    assert section.epochs is not None
    return max(1, section.epochs * fields // (section.batch * section.accumulate))


def new_denoiser(recipe: Recipe, dataset: FieldDataset) -> Denoiser:
    """The network of a new run, its conditions fitted to the training fields."""
    conditioners = build_conditioners(recipe, rows=dataset.rows)
    for conditioner in conditioners.values():
        conditioner.initialise()
    return build_denoiser(recipe, conditioners)


def place(recipe: Recipe, denoiser: Denoiser, device: torch.device) -> tuple[Denoiser, tuple[str, ...]]:
    """A network on its device as training wants it; what was chosen for it, as notes.

    Parameters
    ----------
    recipe : Recipe
    denoiser : Denoiser
        On the CPU.
    device : torch.device
    """
    notes: tuple[str, ...] = ()
    if recipe.train.checkpointing == "auto":
        twin = meta_denoiser(recipe, facts=collect_facts(denoiser.by_name))
        choice = choose_checkpointing(twin, recipe, device)
        denoiser.backbone.checkpointing, notes = choice.on, choice.notes
    if recipe.train.precision == "bf16" and not native_bf16(device):
        notes += (f"{device} does not compute bf16 itself: training in fp32",)
    return denoiser.to(device).to(memory_format=torch.channels_last), notes


def loader_workers(section: TrainSection, device: torch.device) -> int:
    """Processes that load: those of the recipe, or as many as suit the device."""
    return loader_processes(device) if section.workers == "auto" else section.workers


def train(
    recipe: Recipe | str | Path,
    data: str | Path = "histology-nuclei",
    out: str | Path = "run",
    *,
    resume: bool = False,
    device: str | None = None,
    listener: Listener = lambda event: None,
) -> Path:
    """Train a recipe.

    Parameters
    ----------
    recipe : Recipe, str or Path
        A recipe, or the name or path of one.
    data : str or Path
        A folder in the documented layout, or a data set by name.
    out : str or Path
        The run's folder: made new, or gone on with when `resume`.
    resume : bool
    device : str or None
        ``cpu``, ``cuda``, ``cuda:1`` ...; None takes a GPU where there is one.
    listener : callable
        Called with every `Event`.

    Returns
    -------
    Path
        The run's folder.

    Raises
    ------
    MsdmError
        Anything is wrong with the recipe, the data or the folder; nothing is written then.
    Interrupted
        SIGINT arrived; the run is saved.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    check_plugins(recipe)
    run = Run(Path(out))
    saved = run.claim(recipe, resume=resume)
    splits = open_splits(
        recipe, data_folder(str(data)), on_progress=lambda done, n: listener(Checked(done, n))
    )
    target = pick_device(device)
    if saved is not None:
        splits.check_same(saved[1]["fields"], run.folder)
        denoiser = build_denoiser(recipe, build_conditioners(recipe, facts=saved[1]["conditioners"]))
    else:
        denoiser = new_denoiser(recipe, splits.train)
    denoiser, notes = place(recipe, denoiser, target)
    total = total_steps(recipe, len(splits.train))
    drop = {n: entry.drop for n, entry in recipe.conditioners.items()}
    optimiser = Optimiser(denoiser, recipe.train, total=total, drop=drop)
    extra = {"fields": splits.fingerprint}
    if saved is not None:
        optimiser.load(*saved)
    validation = None
    if splits.validation is not None:
        solver = load_solver(recipe.sample.solver)
        validation = Validation(splits.validation, optimiser, recipe, solver)
    stream = TrainingStream(splits.train, denoiser.by_name, recipe.data, recipe.train.seed)
    stream[0]  # what the data lack for a condition must show before anything is written
    parameters = sum(p.numel() for p in denoiser.parameters())
    notes = (*splits.notes, *notes)
    with start_loggers(recipe, run.loggers, optimiser.done, lambda text: listener(Warned(text))) as loggers:
        run.start(recipe, optimiser.done)
        listener(Started(total, optimiser.done, parameters, len(splits.train), str(target), notes))
        _loop(recipe, run, optimiser, stream, validation, extra, loggers, listener)
    return run.folder


def _loop(
    recipe: Recipe,
    run: Run,
    optimiser: Optimiser,
    stream: TrainingStream,
    validation: Validation | None,
    extra: dict[str, str],
    loggers: Loggers,
    listener: Listener,
) -> None:
    section, total = recipe.train, optimiser.total
    per_step = section.batch * section.accumulate
    loader = make_loader(
        stream,
        start=optimiser.done * per_step,
        count=(total - optimiser.done) * per_step,
        batch=section.batch,
        workers=loader_workers(section, optimiser.device),
        pin=optimiser.device.type == "cuda",
    )
    batches = iter(loader)
    began = time.monotonic() - run.seconds()

    def log(step: int, **values: Any) -> None:
        run.log(step=step, **values)
        loggers.scalars(step, values)

    def save() -> None:
        run.save(recipe, optimiser, extra)
        listener(Saved(optimiser.done, run.weights))

    with sigint_event() as stop:
        while optimiser.done < total:
            report = optimiser.step([next(batches) for _ in range(section.accumulate)])
            step, last = report.step, report.step == total
            log(
                step,
                loss=report.loss,
                gradient_norm=report.gradient_norm,
                lr=report.lr,
                images=step * per_step,
                seconds=round(time.monotonic() - began, 3),
            )
            listener(report)
            if stop.is_set() and not last:
                save()
                raise Interrupted(step)
            if validation is not None and (step % section.validate_every == 0 or last):
                losses = by_level(validation.losses())
                log(step, validation=losses)
                listener(Validated(step, losses))
            if step % section.save_every == 0 or last:
                save()
            if validation is not None and (step % section.preview_every == 0 or last):
                path = run.preview(step)
                validation.preview(path, f"{recipe.name}, step {step}")
                loggers.picture(step, "preview", path)
                listener(Previewed(step, path))


@contextmanager
def sigint_event() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that a step is never cut in two; the second one kills."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
