"""A training pass without memory: on the meta device, where tensors have shapes and no numbers."""

import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from ..core.conditioning import Conditioner, Signal
from ..core.denoiser import Denoiser
from ..core.errors import MsdmError
from ..core.recipe import Recipe
from .build import build_conditioners, build_denoiser

TOKENS = 32
"""Length of a text in the pass."""


def meta_denoiser(
    recipe: Recipe,
    *,
    rows: Sequence[Mapping[str, str]] | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> Denoiser:
    """The network of a recipe without memory for its weights.

    Parameters
    ----------
    recipe : Recipe
    rows, facts
        Exactly one is given, as to `build_conditioners`.

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
            conditioners = build_conditioners(recipe, rows=rows, facts=facts)
    except MsdmError:
        raise
    except Exception:
        # A conditioner may compute with its weights when it is made.
        conditioners = build_conditioners(recipe, rows=rows, facts=facts)
    with torch.device("meta"):
        return build_denoiser(recipe, conditioners).to("meta")


def activation_bytes(denoiser: Denoiser, recipe: Recipe, *, bf16: bool, checkpointing: bool) -> int | None:
    """Most bytes that one forward and backward pass of a batch of crops holds beside weights and gradients.

    The storages that are alive are summed: recomputation under checkpointing counts as it happens, attention
    as a fused kernel, bf16 as autocast casts.

    Parameters
    ----------
    denoiser : Denoiser
        From `meta_denoiser`.
    recipe : Recipe
    bf16 : bool
        Whether autocast is on; otherwise fp32.
    checkpointing : bool
        Whether activations are recomputed in the backward pass.

    Returns
    -------
    int or None
        None where a plugin does not run on the meta device.
    """
    live = _Live()
    return int(live.peak) if _passes(denoiser, recipe, live, bf16, checkpointing) else None


def model_flops(denoiser: Denoiser, recipe: Recipe) -> int | None:
    """Floating-point operations of one forward and backward pass of a batch of crops.

    Those of matrix products, convolutions and attention, two per multiplication; what checkpointing computes
    anew does not count.

    Returns
    -------
    int or None
        None where a plugin does not run on the meta device.
    """
    counter = FlopCounterMode(display=False)
    return int(counter.get_total_flops()) if _passes(denoiser, recipe, counter, False, False) else None


def _passes(
    denoiser: Denoiser, recipe: Recipe, mode: AbstractContextManager[Any], bf16: bool, checkpointing: bool
) -> bool:
    """Run a pass under `mode`; whether it could be run."""
    before = denoiser.backbone.checkpointing
    denoiser.backbone.checkpointing = checkpointing
    try:
        _run(denoiser, recipe, mode, bf16)
    except Exception:  # a third party's plugin need not run on the meta device
        return False
    finally:
        denoiser.backbone.checkpointing = before
        denoiser.zero_grad(set_to_none=True)
    return True


def _run(denoiser: Denoiser, recipe: Recipe, mode: AbstractContextManager[Any], bf16: bool) -> None:
    batch, crop = recipe.train.batch, recipe.data.crop
    for p in denoiser.parameters():
        if p.requires_grad:
            p.grad = torch.empty_like(p)  # counted apart: it lives from step to step
    with torch.device("meta"):
        x, t = torch.empty(batch, 3, crop, crop), torch.empty(batch, dtype=torch.int64)
        x = x.contiguous(memory_format=torch.channels_last)
        signals = {name: _signal(denoiser.conditioner(name), batch, crop) for name in denoiser.names}
    denoiser.train()
    with _Autocast(bf16), mode:
        loss = denoiser(x, t, signals).square().mean()
        # Not loss.backward(): it turns the modes off, and recomputation would run without them.
        torch.autograd.Variable._execution_engine.run_backward(
            (loss,), (torch.ones_like(loss),), False, False, (), True, True
        )
        del loss


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
