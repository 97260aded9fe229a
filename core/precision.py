"""bf16 where the machine computes it, fp32 elsewhere. Never fp16."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .copies import Module, shared_copy
from .recipe import Precision


def native_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 itself: emulated, it is slower than fp32 and no more exact."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # Arm cores have it as an extension that torch does not report: fp32 is the safe answer there
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """bf16 autocast where it is asked for and native, otherwise none."""
    return torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == "bf16" and native_bf16(device)
    )


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Within the block nothing is cast to bf16, whatever is so around it."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def lowered(module: Module, precision: Precision, device: torch.device | None = None) -> Module:
    """A copy for sampling in which the weights that autocast would cast at every step are cast once.

    Those are the weights of convolutions and of self-attention; all others stay as they are and are shared
    with `module`, and so do norms, time embeddings and conditioners compute in fp32.

    Parameters
    ----------
    module : nn.Module
        On its device; it is not changed.
    precision : {'fp32', 'bf16'}
    device : torch.device or None
        Where it computes; None is the module's own. Another one for a module without memory (meta device).

    Returns
    -------
    nn.Module
        `module` itself where there is nothing to cast: in fp32, and where bf16 is not native.
    """
    from .attention import SelfAttention  # which imports this module

    if device is None:
        device = next(module.parameters()).device
    if precision != "bf16" or not native_bf16(device):
        return module
    instead: dict[int, Tensor] = {}
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            cast = list(layer.parameters())
        elif isinstance(layer, SelfAttention):
            cast = [*layer.qkv.parameters(), *layer.proj.parameters()]
        else:
            continue
        for p in cast:
            instead[id(p)] = nn.Parameter(p.detach().to(torch.bfloat16), requires_grad=False)
    return shared_copy(module, instead)
