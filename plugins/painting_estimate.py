"""The memory that painting will take, found without painting, and what to set where it does not do."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..core.denoiser import Denoiser
from ..core.errors import MsdmError
from ..core.precision import native_bf16
from ..core.recipe import Recipe, SampleSection
from .build import collect_facts
from .device import HEAP, free_memory, held_memory, readable_size
from .estimate import SHARE
from .field_windows import grid_of, settle_windows
from .meta_pass import meta_denoiser
from .meta_sampling import painting_bytes

SMALLEST = 4
"""Windows are tried down to so many of the smallest that the backbone takes: below it sees nothing."""


@dataclass(frozen=True)
class PaintingMemory:
    """Bytes that painting holds: an estimate.

    Attributes
    ----------
    device : torch.device
    held : int
        What this process holds there before: on a CPU libraries and data, on either the weights.
    painting : int or None
        What is added at the peak: cast and transformed weights, prepared conditions, activations. None where
        it could not be found.
    free : int
        On the device, before.
    """

    device: torch.device
    held: int
    painting: int | None
    free: int

    @property
    def total(self) -> int:
        """At the peak: of the process on a CPU, of PyTorch's allocator on a GPU."""
        return self.held + (self.painting or 0)

    @property
    def fits(self) -> bool:
        """Whether it is within `estimate.SHARE` of what is free, where it could be found."""
        return self.painting is None or self.painting <= SHARE * self.free

    def __str__(self) -> str:
        free = f"{readable_size(self.free)} free on {self.device}"
        if self.painting is None:
            return f"painting takes memory that could not be estimated for these plugins, of {free}"
        return f"painting takes about {readable_size(self.painting)} of {free}"


def estimate_painting(
    recipe: Recipe,
    denoiser: Denoiser,
    settings: SampleSection,
    *,
    size: tuple[int, int],
    batch: int = 1,
    twin: Denoiser | None = None,
) -> PaintingMemory:
    """Bytes that painting fields of a size takes.

    Parameters
    ----------
    recipe : Recipe
    denoiser : Denoiser
        On its device.
    settings : SampleSection
        Settled, as `Pipeline.settings` gives them.
    size : (int, int)
        Height and width of a field.
    batch : int
        Fields, or windows of one, at once.
    twin : Denoiser or None
        The network on the meta device; None makes it.
    """
    device = next(denoiser.parameters()).device
    free = free_memory(device)
    budget = settings.memory if settings.memory is not None else free // 2
    groups = 1
    if settings.window is not None and max(size) > settings.window:
        grid = grid_of(size, settings, denoiser.multiple)
        batch = min(batch, len(grid.windows))
        size, groups = grid.side, -(-len(grid.windows) // batch)
    twin = twin or meta_denoiser(recipe, facts=collect_facts(denoiser.by_name))
    painting = painting_bytes(
        twin, settings, size=size, batch=batch, device=device, budget=budget, groups=groups
    )
    if painting is not None and device.type == "cpu":
        painting = int(HEAP * painting)
    return PaintingMemory(device, held_memory(device), painting, free)


def memory_notes(
    recipe: Recipe, denoiser: Denoiser, settings: SampleSection, *, size: tuple[int, int], batch: int
) -> tuple[str, ...]:
    """What painting will take, and a warning where that may not fit: a line each."""
    memory = estimate_painting(recipe, denoiser, settings, size=size, batch=batch)
    if memory.fits:
        return (str(memory),)
    return (f"{memory}: it may not fit; {what_fits(recipe, denoiser, settings, size=size)}",)


def what_fits(
    recipe: Recipe,
    denoiser: Denoiser,
    settings: SampleSection,
    *,
    size: tuple[int, int],
    failed: bool = False,
) -> str:
    """Settings with which painting one field of a size at a time would fit, in words.

    `failed`: memory has run out with one at a time and nothing kept; less than that must do.
    """
    twin = meta_denoiser(recipe, facts=collect_facts(denoiser.by_name))
    most: float | None = None
    for options, changed in _lighter(denoiser, settings, size):
        memory = estimate_painting(recipe, denoiser, changed, size=size, twin=twin)
        if memory.painting is None:
            break
        if most is None:
            most = SHARE * min(memory.free, memory.painting) if failed else SHARE * memory.free
        if memory.painting <= most:
            return f"{options} would fit ({readable_size(memory.painting)})"
    return "no smaller window fits: close what else runs, or take a device with more memory"


def _lighter(
    denoiser: Denoiser, settings: SampleSection, size: tuple[int, int]
) -> Iterator[tuple[str, SampleSection]]:
    """Settings that take less, the mildest first, and the options that say so."""
    frugal = settings.model_copy(update={"memory": 0})
    yield "--batch 1 --memory 0", frugal
    words = "--batch 1 --memory 0"
    device = next(denoiser.parameters()).device
    if settings.precision == "fp32" and native_bf16(device):
        words += " --precision bf16"
        frugal = frugal.model_copy(update={"precision": "bf16"})
        yield words, frugal
    multiple = denoiser.multiple
    side = min(max(size), settings.window or max(size)) // 2
    while side - side % multiple >= SMALLEST * multiple:
        window = side - side % multiple
        try:
            changed = settle_windows(
                frugal.model_copy(update={"window": window, "overlap": None}),
                multiple,
                denoiser.autoencoder.stride,
            )
        except MsdmError:  # these settings take no windows
            return
        yield f"--window {window} {words}", changed
        side //= 2
