"""The memory that training will take, found without training."""

from dataclasses import dataclass

import torch

from ..core.denoiser import Denoiser
from ..core.precision import native_bf16
from ..core.recipe import Recipe
from .device import free_memory
from .meta_pass import activation_bytes

SHARE = 0.8
"""Of the free memory, how much an estimate may take: the rest is for what it leaves out."""

LEFT_OUT = (
    "left out: the device's own context, workspaces of convolutions, fragmentation, what conditioners keep, "
    "previews, the loader"
)


@dataclass(frozen=True)
class Memory:
    """Bytes that training holds at its peak: an estimate, see `LEFT_OUT`.

    Attributes
    ----------
    weights, gradients, moments, average : int
        4 bytes per parameter; moments (of Adam) 8. Frozen parameters have weights only.
    activations : int or None
        Most that one forward and backward pass holds beside them; None where it could not be found.
    """

    weights: int
    gradients: int
    moments: int
    average: int
    activations: int | None

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.average + (self.activations or 0)


def estimate_memory(
    denoiser: Denoiser, recipe: Recipe, device: torch.device, *, checkpointing: bool
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
    """
    weights = sum(p.numel() for p in denoiser.parameters())
    trained = sum(p.numel() for p in denoiser.parameters() if p.requires_grad)
    bf16 = recipe.train.precision == "bf16" and native_bf16(device)
    activations = activation_bytes(denoiser, recipe, bf16=bf16, checkpointing=checkpointing)
    return Memory(4 * weights, 4 * trained, 8 * trained, 4 * trained, activations)


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


def choose_checkpointing(denoiser: Denoiser, recipe: Recipe, device: torch.device) -> Checkpointing:
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
    """
    setting = recipe.train.checkpointing
    if isinstance(setting, bool):
        return Checkpointing(setting, None)
    free = free_memory(device)
    plain = estimate_memory(denoiser, recipe, device, checkpointing=False)
    if plain.activations is None:
        note = "train.checkpointing=auto is off: memory could not be estimated for these plugins"
        return Checkpointing(False, plain, (note,))
    room = f"{_size(free)} free on {device}"
    if plain.total <= SHARE * free:
        note = f"train.checkpointing=auto is off: training takes about {_size(plain.total)} of {room}"
        return Checkpointing(False, plain, (note,))
    spared = estimate_memory(denoiser, recipe, device, checkpointing=True)
    note = (
        f"train.checkpointing=auto is on: training takes about {_size(spared.total)} with it and "
        f"{_size(plain.total)} without, of {room}"
    )
    if spared.total > SHARE * free:
        note += "; even so it may not fit: lower train.batch or data.crop"
    return Checkpointing(True, spared, (note,))


def _size(n: int) -> str:
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"
