"""Settings of training that fit into memory, where those of the recipe did not."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..core.denoiser import Denoiser
from ..core.errors import MsdmError, out_of_memory
from ..core.recipe import Recipe
from .device import free_memory, held_memory, readable_size
from .estimate import SHARE, Memory, estimate_memory
from .meta_pass import meta_denoiser
from .run import Run
from .splits import Splits
from .validation import preview_side

SMALLEST = 4
"""Crops are tried down to so many of the smallest that the backbone takes: below it sees nothing."""


@dataclass(frozen=True)
class Room:
    """What training may take: what was free on its device before the network was there.

    Attributes
    ----------
    device : torch.device
    free, held : int
        Bytes free on it, and bytes of this process there, then.
    """

    device: torch.device
    free: int
    held: int

    @classmethod
    def now(cls, device: torch.device) -> "Room":
        """The room before a network is put on a device."""
        return cls(device, free_memory(device), held_memory(device))

    @property
    def left(self) -> int:
        """The room as it is now: others may have taken of it since."""
        ours = max(0, held_memory(self.device) - self.held)
        return min(self.free, free_memory(self.device) + ours)


@contextmanager
def advised(recipe: Recipe, splits: Splits, device: torch.device, run: Run) -> Iterator[None]:
    """Around a training: where memory runs out, one line says which settings would fit.

    Raises
    ------
    MsdmError
        Memory ran out.
    """
    room = Room.now(device)
    try:
        yield
        return
    except Exception as error:
        if not out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # what is computed below needs some, too
    steps = run.checkpoints.steps
    saved = f"; what is saved is of step {max(steps)}, and --resume goes on there" if steps else ""
    try:
        advice = _advice(recipe, splits, room)
    except Exception as error:
        if not out_of_memory(error):
            raise
        advice = "nor is there any left to find out what would fit; free some, or try --dry-run elsewhere"
    raise MsdmError(f"out of memory on {device}: {advice}{saved}")


def _advice(recipe: Recipe, splits: Splits, room: Room) -> str:
    denoiser = meta_denoiser(recipe, rows=splits.train.rows)
    preview = preview_side(recipe, splits.validation, denoiser.multiple)
    setting = recipe.train.checkpointing
    if setting == "auto":
        plain = estimate_memory(denoiser, recipe, room.device, checkpointing=False, preview=preview)
        setting = plain.step is not None and plain.more > SHARE * room.free
    return advise(denoiser, recipe, room, checkpointing=bool(setting), preview=preview)


def advise(denoiser: Denoiser, recipe: Recipe, room: Room, *, checkpointing: bool, preview: int) -> str:
    """What to set where training ran out of memory: one line, for after ``out of memory``.

    Parameters
    ----------
    denoiser : Denoiser
        From `meta_denoiser`.
    recipe : Recipe
    room : Room
    checkpointing : bool
        Whether activations were recomputed.
    preview : int
        As `estimate_memory` takes it.
    """
    took = estimate_memory(denoiser, recipe, room.device, checkpointing=checkpointing, preview=preview)
    left = room.left
    state = f"training takes about {readable_size(took.more)}, {readable_size(left)} are free"
    most = SHARE * min(left, took.more) if took.step is not None else 0.0
    for changes in _candidates(denoiser, recipe, checkpointing):
        memory = _with(denoiser, recipe, changes, room.device, checkpointing, preview)
        if memory.step is not None and memory.more <= most:
            sets = " ".join(f"--set {key}={value}" for key, value in changes.items())
            same = "" if "data.crop" in changes else ", which change no step"
            return f"{state}; {sets}{same}, would fit ({readable_size(memory.more)})"
    return f"{state}; nothing smaller of this recipe fits: take a smaller backbone, or more memory"


def _candidates(denoiser: Denoiser, recipe: Recipe, checkpointing: bool) -> Iterator[dict[str, str]]:
    """Changes of the recipe, the mildest first: those that cost time, then those that change the step."""
    recomputed = {} if checkpointing else {"train.checkpointing": "true"}
    train = recipe.train
    parts = [n for n in range(1, train.batch + 1) if train.batch % n == 0]
    shares = [
        {"train.batch": str(train.batch // n), "train.accumulate": str(train.accumulate * n)}
        for n in parts[1:]
    ]
    if recomputed:
        yield recomputed
    yield from shares
    for share in shares if recomputed else ():
        yield {**share, **recomputed}
    smallest = {**(shares[-1] if shares else {}), **recomputed}
    crop, multiple = recipe.data.crop // 2, denoiser.multiple
    while crop - crop % multiple >= SMALLEST * multiple:
        yield {"data.crop": str(crop - crop % multiple), **smallest}
        crop //= 2


def _with(
    denoiser: Denoiser,
    recipe: Recipe,
    changes: dict[str, str],
    device: torch.device,
    checkpointing: bool,
    preview: int,
) -> Memory:
    """The estimate of a recipe with some settings changed."""
    train = recipe.train.model_copy(
        update={
            "batch": int(changes.get("train.batch", recipe.train.batch)),
            "accumulate": int(changes.get("train.accumulate", recipe.train.accumulate)),
        }
    )
    crop = int(changes.get("data.crop", recipe.data.crop))
    data = recipe.data.model_copy(update={"crop": crop})
    return estimate_memory(
        denoiser,
        recipe.model_copy(update={"train": train, "data": data}),
        device,
        checkpointing=checkpointing or "train.checkpointing" in changes,
        preview=min(preview, 2 * crop),
    )
