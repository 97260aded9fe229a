"""What a run will take, found without training: parameters, memory, and steps."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..core.conditioning import Conditioner, Signal
from ..core.denoiser import Denoiser
from ..core.errors import MsdmError
from ..core.recipe import Recipe
from .build import build_conditioners, build_denoiser
from .data import data_folder
from .run import Run
from .splits import open_splits
from .training import total_steps

TOKENS = 32
"""Length of a text in the estimate."""

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


@dataclass(frozen=True)
class Plan:
    """A run before it starts.

    Attributes
    ----------
    recipe : Recipe
    parts : dict of str -> int
        Parameters of the backbone, of each conditioner and of each injector.
    memory : Memory
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
    on_progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """What `train` would do, with the same checks; nothing is written.

    Parameters
    ----------
    recipe : Recipe
    data, out, resume
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
    saved = run.claim(recipe, resume=resume)
    splits = open_splits(recipe, data_folder(str(data)), on_progress=on_progress)
    if saved is not None:
        splits.check_same(saved[1]["fields"], run.folder)
    denoiser = meta_denoiser(recipe, splits.train.rows)
    for name in denoiser.names:
        denoiser.conditioner(name).observe(splits.train[0])  # what the data lack for a condition shows
    crop, small = recipe.data.crop, min(min(size) for size in splits.train.sizes)
    warnings = []
    if small < crop:
        count = sum(min(size) < crop for size in splits.train.sizes)
        warnings.append(
            f"{count} of {len(splits.train)} training fields are smaller than data.crop {crop}, the smallest "
            f"side is {small}: training will refuse them; lower it, such as --set "
            f"data.crop={_fitting(small, denoiser)}"
        )
    memory = estimate_memory(denoiser, recipe)
    if memory.activations is None:
        warnings.append("the memory of activations could not be found for these plugins")
    per_step = recipe.train.batch * recipe.train.accumulate
    return Plan(
        recipe=recipe,
        parts=count_parameters(denoiser, recipe),
        memory=memory,
        fields=len(splits.train),
        crops_per_step=per_step,
        steps_per_epoch=len(splits.train) / per_step,
        steps=total_steps(recipe, len(splits.train)),
        warnings=tuple(warnings),
        notes=splits.notes,
    )


def meta_denoiser(recipe: Recipe, rows: Sequence[Mapping[str, str]]) -> Denoiser:
    """The network of a recipe without memory for its weights.

    Parameters
    ----------
    recipe : Recipe
    rows : sequence of mapping column -> str
        The manifest's rows of the training split.

    Returns
    -------
    Denoiser
        On the meta device.

    Raises
    ------
    MsdmError
        As `build_conditioners` and `build_denoiser`.
    """
    conditioners: dict[str, Conditioner]
    try:
        with torch.device("meta"):
            conditioners = build_conditioners(recipe, rows=rows)
    except MsdmError:
        raise
    except Exception:
        # A conditioner may compute with its weights when it is made.
        conditioners = build_conditioners(recipe, rows=rows)
    with torch.device("meta"):
        return build_denoiser(recipe, conditioners).to("meta")


def count_parameters(denoiser: Denoiser, recipe: Recipe) -> dict[str, int]:
    """Parameters by part: ``backbone``, ``conditioners.<name>``, ``injectors.<i> (<type>)``."""

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    parts = {"backbone": count(denoiser.backbone)}
    parts |= {f"conditioners.{name}": count(denoiser.conditioner(name)) for name in denoiser.names}
    for i, (entry, injection) in enumerate(zip(recipe.injectors, denoiser.injections, strict=True)):
        parts[f"injectors.{i} ({entry.type})"] = count(injection)
    return parts


def estimate_memory(denoiser: Denoiser, recipe: Recipe) -> Memory:
    """Bytes that training takes.

    One forward and backward pass of a batch of crops is run on the meta device, where tensors have shapes and
    no memory, and the storages that are alive are summed: recomputation under checkpointing counts as it
    happens, attention as a fused kernel, bf16 as autocast casts.

    Parameters
    ----------
    denoiser : Denoiser
        From `meta_denoiser`.
    recipe : Recipe
    """
    weights = sum(p.numel() for p in denoiser.parameters())
    trained = sum(p.numel() for p in denoiser.parameters() if p.requires_grad)
    try:
        activations: int | None = _activations(denoiser, recipe)
    except Exception:  # a third party's plugin need not run on the meta device
        activations = None
    return Memory(4 * weights, 4 * trained, 8 * trained, 4 * trained, activations)


def _activations(denoiser: Denoiser, recipe: Recipe) -> int:
    batch, crop = recipe.train.batch, recipe.data.crop
    for p in denoiser.parameters():
        if p.requires_grad:
            p.grad = torch.empty_like(p)  # counted apart: it lives from step to step
    with torch.device("meta"):
        x, t = torch.empty(batch, 3, crop, crop), torch.empty(batch, dtype=torch.int64)
        signals = {name: _signal(denoiser.conditioner(name), batch, crop) for name in denoiser.names}
    denoiser.train()
    try:
        with _Autocast(recipe.train.precision == "bf16"), _Live() as live:
            loss = denoiser(x, t, signals).square().mean()
            # Not loss.backward(): it turns the modes off, and recomputation would run without them.
            torch.autograd.Variable._execution_engine.run_backward(
                (loss,), (torch.ones_like(loss),), False, False, (), True, True
            )
            del loss
    finally:
        denoiser.zero_grad(set_to_none=True)
    return int(live.peak)


def _signal(conditioner: Conditioner, batch: int, crop: int) -> Signal:
    spec = conditioner.spec
    shapes = {
        "map": (batch, spec.width, crop, crop),
        "tokens": (batch, TOKENS, spec.width),
        "vector": (batch, spec.width),
    }
    learns = any(p.requires_grad for p in conditioner.parameters())
    mask = torch.ones(batch, TOKENS, dtype=torch.bool) if spec.kind == "tokens" else None
    return Signal(torch.empty(shapes[spec.kind], requires_grad=learns), mask)


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._seen: dict[int, object] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self._seen:
            self._seen[key] = weakref.finalize(storage, self._drop, key, size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def _drop(self, key: int, size: int) -> None:
        del self._seen[key]
        self.now -= size


_LOWER = (F.conv1d, F.conv2d, F.conv3d, F.linear, torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__)
_UPPER = (F.group_norm, F.layer_norm, F.softmax, torch.softmax, Tensor.softmax)


class _Autocast(TorchFunctionMode):
    """What autocast and fused attention do on a device, for the meta device, which has neither."""

    def __init__(self, on: bool) -> None:
        super().__init__()
        self.on = on

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        fused = func is F.scaled_dot_product_attention
        if self.on and (fused or func in _LOWER or func in _UPPER):
            dtype = torch.float32 if func in _UPPER else torch.bfloat16

            def cast(value: Any) -> Any:
                return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

            args, kwargs = tree_map(cast, args), tree_map(cast, kwargs)
        if fused:
            # a mask changes no shape
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3])[0]
        return func(*args, **kwargs)


def _fitting(side: int, denoiser: Denoiser) -> int:
    """The largest crop that fits into `side` and that the backbone takes."""
    multiple = denoiser.backbone.multiple
    return max(multiple, side - side % multiple)
