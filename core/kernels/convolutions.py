"""Which way each convolution of a network runs on a CPU, once nothing is trained any more.

| layer | way |
|---|---|
| 3 x 3, strides 1, channels in whole vectors | `WinogradConv2d`, at any size that pays for it |
| any other, and what is left of those, with many weights | `PackedConv2d` on small maps |
| the rest | torch's own |
"""

import torch
from torch import Tensor, nn

from ..copies import Module, shared_copy
from .packed_conv import PackedConv2d, packs
from .packed_conv import available as packing_available
from .winograd import WinogradConv2d, doubled, suits
from .winograd import available as winograd_available


def accelerated(module: Module, device: torch.device | None = None) -> Module:
    """A copy whose convolutions run the fastest way there is; `module` itself where that is torch's own.

    All parameters are shared.

    Parameters
    ----------
    module : nn.Module
        For inference alone. On its device.
    device : torch.device or None
        Whose ways are taken; None is the module's own. Another one for a module without memory (meta device).
    """
    faster = {}
    if (device or next(module.parameters()).device).type == "cpu":
        faster = {n: m for n, m in module.named_modules() if isinstance(m, nn.Conv2d) and _faster(m) is not m}
    if not faster:
        return module
    twin = shared_copy(module)
    for name in faster:
        parent, _, attribute = name.rpartition(".")
        conv = twin.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        setattr(twin.get_submodule(parent), attribute, _faster(conv))
    return twin


def probe() -> None:
    """Find out now which ways this processor has: what finds it out computes, and is no part of a network."""
    for dtype in (torch.float32, torch.bfloat16):
        winograd_available(dtype)
        packing_available(dtype)


def _faster(conv: nn.Conv2d) -> nn.Module:
    """The layer that stands for a convolution: itself, or one that shares its parameters."""
    small = PackedConv2d(conv) if packs(conv) else conv
    return WinogradConv2d(conv, small) if suits(conv) else small


def doubled_conv(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution of a map (B, C, H, W) that nearest neighbour doubles first: (B, K, 2 H, 2 W)."""
    out: Tensor = conv(x, up=True) if isinstance(conv, WinogradConv2d) else conv(doubled(x))
    return out
