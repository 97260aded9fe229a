"""The memory that training will take, found without training."""

from dataclasses import dataclass

import torch

from ..core.denoiser import Denoiser
from ..core.precision import native_bf16
from ..core.recipe import Recipe
from .device import FIRST_USE, HEAP, free_memory, held_memory, readable_size
from .meta_modes import weights_of
from .meta_pass import step_bytes
from .meta_sampling import painting_bytes
from .solver import load_solver
from .validation import preview_settings

SHARE = 0.8
"""Of the free memory, how much an estimate may take: the rest is for what it leaves out."""

LEFT_OUT = (
    "left out: loader processes, what conditioners keep, and on a GPU its own context, workspaces of "
    "convolutions and fragmentation"
)


@dataclass(frozen=True)
class Memory:
    """Bytes that training holds: an estimate, see `LEFT_OUT`.

    A step, a preview and the writing of a checkpoint come one after another: the largest makes the peak.

    Attributes
    ----------
    process : int
        What the process holds before, data and libraries included; on a GPU nothing.
    weights, moments, average : int
        4 bytes per parameter; moments (of Adam) 8. Frozen parameters have weights only, and so has an
        autoencoder.
    step : int or None
        Most that the gradients and activations of a step hold; None where it could not be found.
    preview : int or None
        Most that painting a preview holds: transformed weights, prepared conditions, activations. None where
        none is painted, or it could not be found.
    saving : int
        Weights, averages and moments in the order in which they are written; on a GPU they are in the
        computer's memory, and nothing here.
    """

    process: int
    weights: int
    moments: int
    average: int
    step: int | None
    preview: int | None
    saving: int

    @property
    def pieces(self) -> dict[str, int | None]:
        """What it is made of, by name; what comes one after another is not added up."""
        found: dict[str, int | None] = {"the process before": self.process} if self.process else {}
        found |= {"weights": self.weights, "Adam's moments": self.moments, "averaged weights": self.average}
        found["gradients and activations of a step"] = self.step
        if self.preview is not None:
            found["or painting a preview"] = self.preview
        if self.saving:
            found["or writing a checkpoint"] = self.saving
        return found

    @property
    def more(self) -> int:
        """At the peak, beside what the process holds before."""
        lasting = self.weights + self.moments + self.average
        return lasting + max(self.step or 0, self.preview or 0, self.saving)

    @property
    def total(self) -> int:
        """At the peak: of the process on a CPU, of PyTorch's allocator on a GPU."""
        return self.process + self.more


def estimate_memory(
    denoiser: Denoiser, recipe: Recipe, device: torch.device, *, checkpointing: bool, preview: int = 0
) -> Memory:
    """Bytes that training takes.

    Parameters
    ----------
    denoiser : Denoiser
        From `meta_denoiser`.
    recipe : Recipe
    device : torch.device
        Where it would train: bf16 only where that is native.
    checkpointing : bool
        Whether activations are recomputed in the backward pass.
    preview : int
        Side of the previews in pixels, see `validation.preview_side`; 0 is none.
    """
    weights = sum(t.nbytes for t in weights_of(denoiser))
    trained = [p for p in denoiser.parameters() if p.requires_grad]
    bf16 = recipe.train.precision == "bf16" and native_bf16(device)
    on_cpu = device.type == "cpu"
    heap = HEAP if on_cpu else 1.0
    step = step_bytes(denoiser, recipe, bf16=bf16, checkpointing=checkpointing)
    shown = None
    if preview:
        settings = preview_settings(recipe, load_solver(recipe.sample.solver), len(denoiser.schedule))
        shown = painting_bytes(
            denoiser, settings, size=(preview, preview), batch=1, device=device, budget=None
        )
    maps = sum(4 * p.numel() for p in trained if p.ndim == 4)
    each = 4 * sum(p.numel() for p in trained)
    return Memory(
        process=held_memory(device) + FIRST_USE if on_cpu else 0,
        weights=weights,
        moments=2 * each,
        average=each,
        step=None if step is None else int(heap * step),
        preview=None if shown is None else int(heap * shown),
        saving=4 * maps if on_cpu else 0,  # channels_last, and a file has them in the other order
    )


@dataclass(frozen=True)
class Checkpointing:
    """Whether activations are recomputed in the backward pass.

    Attributes
    ----------
    on : bool
    memory : Memory or None
        What training then takes; None where nothing had to be estimated.
    notes : tuple of str
        Why, where the recipe leaves it open.
    """

    on: bool
    memory: Memory | None
    notes: tuple[str, ...] = ()


def choose_checkpointing(
    denoiser: Denoiser, recipe: Recipe, device: torch.device, *, preview: int = 0
) -> Checkpointing:
    """Settle `train.checkpointing`: `auto` recomputes only where memory needs it.

    That is where the estimate without it is more than `SHARE` of what is free on the device. The choice
    changes time and memory, never the weights.

    Parameters
    ----------
    denoiser : Denoiser
        From `meta_denoiser`.
    recipe : Recipe
    device : torch.device
        Before the network is put there.
    preview : int
        As `estimate_memory` takes it.
    """
    setting = recipe.train.checkpointing
    if isinstance(setting, bool):
        return Checkpointing(setting, None)
    free = free_memory(device)
    plain = estimate_memory(denoiser, recipe, device, checkpointing=False, preview=preview)
    if plain.step is None:
        note = "train.checkpointing=auto is off: memory could not be estimated for these plugins"
        return Checkpointing(False, plain, (note,))
    room = f"{readable_size(free)} free on {device}"
    if plain.more <= SHARE * free:
        note = f"train.checkpointing=auto is off: training takes about {readable_size(plain.more)} of {room}"
        return Checkpointing(False, plain, (note,))
    spared = estimate_memory(denoiser, recipe, device, checkpointing=True, preview=preview)
    note = (
        f"train.checkpointing=auto is on: training takes about {readable_size(spared.more)} with it and "
        f"{readable_size(plain.more)} without, of {room}"
    )
    if spared.more > SHARE * free:
        note += "; even so it may not fit: lower train.batch or data.crop"
    return Checkpointing(True, spared, (note,))
