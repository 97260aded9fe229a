"""What a run will take, found without training: parameters, memory, and steps."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..core import guard
from ..core.denoiser import Denoiser
from ..core.recipe import Recipe
from .class_names import class_notes
from .data import data_folder
from .device import free_memory, pick_device
from .estimate import SHARE, Memory, choose_checkpointing, estimate_memory
from .fitting import Room, advise
from .meta_pass import meta_denoiser
from .run import Run
from .splits import open_splits
from .training import total_steps
from .validation import preview_side


@dataclass(frozen=True)
class Plan:
    """A run before it starts.

    Attributes
    ----------
    recipe : Recipe
    parts : dict of str -> int
        Parameters of the backbone, of each conditioner and of each injector.
    memory : Memory
    free : int
        Bytes that are free on the device.
    fields : int
        Training fields.
    crops_per_step : int
    steps_per_epoch : float
        Optimiser steps in which as many crops are seen as there are fields.
    steps : int
        Optimiser steps in all.
    warnings, notes : tuple of str
    """

    recipe: Recipe
    parts: dict[str, int]
    memory: Memory
    free: int
    fields: int
    crops_per_step: int
    steps_per_epoch: float
    steps: int
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        return sum(self.parts.values())

    @property
    def images(self) -> int:
        """Crops in all."""
        return self.steps * self.crops_per_step


def plan_run(
    recipe: Recipe,
    data: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    device: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """What `train` would do, with the same checks; nothing is written.

    Parameters
    ----------
    recipe : Recipe
    data, out, resume, device
        As `train` takes them.
    on_progress : callable (done, total) or None
        Called after each field that is checked.

    Returns
    -------
    Plan

    Raises
    ------
    MsdmError
        As `train`, but for fields that are smaller than the crop: that is a warning here.
    """
    run = Run(Path(out))
    target = pick_device(device)
    saved = run.claim(recipe, resume=resume)
    splits = open_splits(recipe, data_folder(str(data)), on_progress=on_progress)
    if saved is not None:
        splits.check_same(saved.facts["fields"], run.folder)
    if saved is None:
        denoiser = meta_denoiser(recipe, rows=splits.train.rows)
    else:
        denoiser = meta_denoiser(recipe, facts=saved.facts["conditioners"])
    for name in denoiser.names:
        # what the data lack for a condition shows
        guard.observe(name, denoiser.conditioner(name), splits.train[0])
    crop, small = recipe.data.crop, min(min(size) for size in splits.train.sizes)
    warnings = list(saved.warnings) if saved is not None else []
    if small < crop:
        count = sum(min(size) < crop for size in splits.train.sizes)
        warnings.append(
            f"{count} of {len(splits.train)} training fields are smaller than data.crop {crop}, the smallest "
            f"side is {small}: training will refuse them; lower it, such as --set "
            f"data.crop={_fitting(small, denoiser)}"
        )
    free = free_memory(target)
    side = preview_side(recipe, splits.validation, denoiser.multiple)
    choice = choose_checkpointing(denoiser, recipe, target, preview=side)
    memory = choice.memory or estimate_memory(denoiser, recipe, target, checkpointing=choice.on, preview=side)
    if memory.step is None:
        warnings.append("the memory of activations could not be found for these plugins")
    elif memory.more > SHARE * free:
        advice = advise(denoiser, recipe, Room.now(target), checkpointing=choice.on, preview=side)
        warnings.append(f"it may not fit: {advice}")
    per_step = recipe.train.batch * recipe.train.accumulate
    return Plan(
        recipe=recipe,
        parts=count_parameters(denoiser, recipe),
        memory=memory,
        free=free,
        fields=len(splits.train),
        crops_per_step=per_step,
        steps_per_epoch=len(splits.train) / per_step,
        steps=total_steps(recipe, len(splits.train)),
        warnings=tuple(warnings),
        notes=(*splits.notes, *class_notes(denoiser.by_name, splits.classes), *choice.notes),
    )


def count_parameters(denoiser: Denoiser, recipe: Recipe) -> dict[str, int]:
    """Parameters by part: ``backbone``, ``conditioners.<name>``, ``injectors.<i> (<type>)``."""

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    parts = {"backbone": count(denoiser.backbone)}
    parts |= {f"conditioners.{name}": count(denoiser.conditioner(name)) for name in denoiser.names}
    for i, (entry, injection) in enumerate(zip(recipe.injectors, denoiser.injections, strict=True)):
        parts[f"injectors.{i} ({entry.type})"] = count(injection)
    return parts


def _fitting(side: int, denoiser: Denoiser) -> int:
    """The largest crop that fits into `side` and that the backbone takes."""
    multiple = denoiser.multiple
    return max(multiple, side - side % multiple)
