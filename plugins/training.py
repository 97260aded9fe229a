"""Training a recipe on a data set: what a run needs before its first step."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from ..core.checkpoint import tensors_hash
from ..core.dataset import FieldDataset
from ..core.denoiser import Denoiser
from ..core.errors import MsdmError
from ..core.loader import TrainingStream, make_loader
from ..core.optimise import Optimiser
from ..core.precision import native_bf16
from ..core.processes import Processes, joined, remember, remembered
from ..core.recipe import Recipe, TrainSection
from ..core.share import share_of_step
from .build import build_conditioners, build_denoiser, collect_facts
from .check import check_plugins
from .checkpoints import State
from .class_names import class_notes
from .data import data_folder
from .device import loader_processes, pick_device
from .estimate import choose_checkpointing
from .fitting import advised
from .loggers.started import Loggers, start_loggers
from .meta_pass import meta_denoiser
from .needs import check_latents
from .recipe_files import load_recipe
from .run import Run
from .solver import load_solver
from .splits import Splits, open_splits
from .training_events import Checked, Event, Listener, Started, Warned
from .training_loop import TrainingLoop
from .validation import Validation, preview_side
from .weights import check_fit


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


def saved_denoiser(recipe: Recipe, saved: State, run: Run) -> Denoiser:
    """The network that a checkpoint is of, with weights that are not loaded yet.

    Raises
    ------
    MsdmError
        The checkpoint's weights are not those of the recipe's network.
    """
    known, start = saved.facts["conditioners"], "weights."
    weights = {n.removeprefix(start): t for n, t in saved.tensors.items() if n.startswith(start)}
    check_fit(recipe, known, weights, run.checkpoints.path(saved.step))
    denoiser = build_denoiser(recipe, build_conditioners(recipe, facts=known))
    check_latents(saved.facts, denoiser, str(run.folder))
    return denoiser


def place(
    recipe: Recipe, denoiser: Denoiser, device: torch.device, validation: FieldDataset | None = None
) -> tuple[Denoiser, tuple[str, ...]]:
    """A network on its device as training wants it; what was chosen for it, as notes.

    Parameters
    ----------
    recipe : Recipe
    denoiser : Denoiser
        On the CPU.
    device : torch.device
    validation : FieldDataset or None
        The fields that previews are painted of.
    """
    notes: tuple[str, ...] = ()
    if recipe.train.checkpointing == "auto":
        twin = meta_denoiser(recipe, facts=collect_facts(denoiser.by_name))
        side = preview_side(recipe, validation, twin.multiple)
        choice = choose_checkpointing(twin, recipe, device, preview=side)
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

    Under torchrun, every process computes its share of each step; the leader alone writes and tells the
    listener. Where torchrun starts the processes again, they go on from the run's checkpoint.

    Parameters
    ----------
    recipe : Recipe, str or Path
        A recipe, or the name or path of one.
    data : str or Path
        A folder in the documented layout, or a data set by name.
    out : str or Path
        The run's folder, which every process sees: made new, or gone on with when `resume`.
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
    SaidElsewhere
        Another process of the job raises such a mistake.
    Interrupted
        SIGINT or SIGTERM arrived, in whichever process; the run is saved.
    """
    with joined() as here:
        return _train(here, recipe, data, Path(out), resume, device, listener if here.leads else _quiet)


def _quiet(event: Event) -> None:
    """The listener of a process that is not the leader."""


def _train(
    here: Processes,
    recipe: Recipe | str | Path,
    data: str | Path,
    out: Path,
    resume: bool,
    device: str | None,
    listener: Listener,
) -> Path:
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    check_plugins(recipe)
    share_of_step(recipe.train, here)  # that it can be shared must show before the data are read
    run = Run(out)
    # not every start of torchrun's after its first: the first may have been refused the folder of another run
    begun = f"train {os.path.abspath(out)}"
    steps = run.checkpoints.steps
    saved = run.claim(recipe, resume=resume or (remembered(begun) and bool(steps)))
    remember(begun)
    splits = open_splits(
        recipe, data_folder(str(data)), on_progress=lambda done, n: listener(Checked(done, n))
    )
    target = pick_device(device)
    held = run.held(steps) if here.leads else nullcontext()
    with advised(recipe, splits, target, run):
        _go(here, recipe, run, splits, saved, target, resume, held, listener)
    return run.folder


def _go(
    here: Processes,
    recipe: Recipe,
    run: Run,
    splits: Splits,
    saved: State | None,
    target: torch.device,
    resume: bool,
    held: AbstractContextManager[None],
    listener: Listener,
) -> None:
    """Train, in a folder that is claimed, on fields that are checked; `held` keeps it from others."""
    if saved is not None:
        splits.check_same(saved.facts["fields"], run.folder)
        denoiser = saved_denoiser(recipe, saved, run)
    else:
        denoiser = new_denoiser(recipe, splits.train)
    denoiser, notes = place(recipe, denoiser, target, splits.validation)
    # what is recomputed is gathered again where weights are split: all do it, or none
    denoiser.backbone.checkpointing = here.most(int(denoiser.backbone.checkpointing)) > 0
    total = total_steps(recipe, len(splits.train))
    drop = {n: entry.drop for n, entry in recipe.conditioners.items()}
    made = tensors_hash(denoiser.state_dict()) if here.count > 1 else ""
    optimiser = Optimiser(denoiser, recipe.train, total=total, drop=drop, here=here)
    extra = {"fields": splits.fingerprint}
    if saved is not None:
        optimiser.load(saved.tensors, saved.facts, saved.parts)
    validation = None
    if splits.validation is not None:
        solver = load_solver(recipe.sample.solver)
        validation = Validation(splits.validation, optimiser, recipe, solver)
    stream = TrainingStream(splits.train, denoiser.by_name, recipe.data, recipe.train.seed)
    stream[0]  # what the data lack for a condition must show before anything is written
    parameters = sum(p.numel() for p in denoiser.parameters())
    notes = (*splits.notes, *class_notes(denoiser.by_name, splits.classes), *notes)
    if resume and saved is None:
        notes += (f"{run.folder} holds no checkpoint yet: the run begins anew",)
    _check_alike(here, recipe, optimiser.done, splits, made)

    def warn(text: str) -> None:
        listener(Warned(text))

    started = (
        start_loggers(recipe, run.loggers, optimiser.done, warn) if here.leads else nullcontext(Loggers(warn))
    )
    with held, started as loggers:
        if here.leads:
            run.start(recipe, optimiser.done, saved.facts["due"] if saved is not None else ())
        where = str(target) if here.count == 1 else f"{target} and {here.count - 1} more"
        listener(Started(total, optimiser.done, parameters, len(splits.train), where, notes))
        for text in saved.warnings if saved is not None else ():
            warn(text)
        loader = make_loader(
            stream,
            optimiser.share.batches(optimiser.done, total),
            workers=loader_workers(recipe.train, target),
            pin=target.type == "cuda",
        )
        loop = TrainingLoop(recipe, run, optimiser, loader, validation, extra, loggers, listener)
        loop.go(saved)


def _check_alike(here: Processes, recipe: Recipe, done: int, splits: Splits, weights: str) -> None:
    """Go on when all processes are about to train the same.

    Raises
    ------
    MsdmError
        They are not.
    """
    if here.count == 1:
        return
    own = {
        "recipe": recipe.model_dump_json(),
        "training fields": splits.fingerprint,
        "steps done": done,
        "first weights": weights,
    }
    for rank, other in enumerate(here.gather(own)):
        for what, value in own.items():
            if other[what] != value:
                raise MsdmError(
                    f"process {rank} of {here.count} has other {what} than process {here.rank}; give all the "
                    f"same recipe, data and version of msdm-kit, and a run's folder that all see"
                )
