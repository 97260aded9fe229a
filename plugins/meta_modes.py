"""The meta device, where tensors have shapes and no numbers: what would be held, were it a real one."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..core.conditioning import Conditioner, Signal
from ..core.denoiser import Denoiser

TOKENS = 32
"""Length of a text on the meta device."""


def meta_signal(conditioner: Conditioner, batch: int, size: tuple[int, int]) -> Signal:
    """An encoded condition of a batch of images of `size`, on the meta device; maps in channels_last."""
    spec = conditioner.spec
    shapes = {"map": (batch, spec.width, *size), "tokens": (batch, TOKENS, spec.width)}
    learns = any(p.requires_grad for p in conditioner.parameters()) and torch.is_grad_enabled()
    data = torch.empty(shapes.get(spec.kind, (batch, spec.width)), device="meta")
    if spec.kind == "map":
        data = data.contiguous(memory_format=torch.channels_last)
    return Signal(data.requires_grad_(learns))


def weights_of(denoiser: Denoiser) -> list[Tensor]:
    """All that a network holds, its autoencoder's included."""
    parts = (denoiser, denoiser.autoencoder)
    return [t for part in parts for t in (*part.parameters(), *part.buffers())]


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that are alive, those of `beside` left out.

    Attributes
    ----------
    now, peak : int
    """

    def __init__(self, beside: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        # held, so that no other storage can take the place of one of them
        self._beside = {id(s): s for s in (t.untyped_storage() for t in beside)}
        self._seen: dict[int, object] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.is_meta:
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self._seen and key not in self._beside:
            self._seen[key] = weakref.finalize(storage, self._drop, key, size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def _drop(self, key: int, size: int) -> None:
        del self._seen[key]
        self.now -= size


_LOWER = (F.conv1d, F.conv2d, F.conv3d, F.linear, torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__)
_UPPER = (F.group_norm, F.layer_norm, F.softmax, torch.softmax, Tensor.softmax)


class Autocast(TorchFunctionMode):
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
