"""The custom op of normalisation, modulation, scale-shift and SiLU: which kernel, shapes, gradients."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import enabled, native, norm_twin
from .norm_twin import layout


def implementation(h: Tensor) -> ModuleType:
    """The module whose `forward` and `backward` serve `h`: CUDA, native, or the twin in plain torch."""
    if enabled():
        if h.device.type == "cpu" and native.available(h):
            return native
        if h.device.type == "cuda":
            from . import norm_cuda

            if norm_cuda.available(h):
                return norm_cuda
    return norm_twin


@torch.library.custom_op("msdm_kit::norm_modulate_silu", mutates_args=())
def norm_modulate_silu(
    h: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    gamma_beta: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, mean and rstd, as `norm_twin.forward`."""
    out: tuple[Tensor, Tensor, Tensor] = implementation(h).forward(
        h, groups, weight, bias, gamma_beta, scale, shift, silu
    )
    return out


@torch.library.custom_op("msdm_kit::norm_modulate_silu_backward", mutates_args=())
def norm_modulate_silu_backward(
    grad: Tensor,
    h: Tensor,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    gamma_beta: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients as `norm_twin.backward`; an op cannot return None, so that empty tensors stand for it."""
    grads = implementation(h).backward(
        grad, h, mean, rstd, groups, weight, bias, gamma_beta, scale, shift, silu
    )
    dh, dweight, dbias, dmap, dscale, dshift = (h.new_empty(0) if g is None else g for g in grads)
    return dh, dweight, dbias, dmap, dscale, dshift


@norm_modulate_silu.register_fake
def _(h: Tensor, groups: int, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(h.dtype, torch.float32)
    mean = h.new_empty((h.shape[0], groups), dtype=wide)
    return torch.empty_like(h, memory_format=layout(h)), mean, torch.empty_like(mean)


@norm_modulate_silu_backward.register_fake
def _(
    grad: Tensor,
    h: Tensor,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    gamma_beta: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    def like(t: Tensor | None) -> Tensor:
        return h.new_empty(0) if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)

    dmap = h.new_empty(0)
    if gamma_beta is not None:
        dmap = torch.empty_like(gamma_beta, memory_format=layout(h))
    dh = torch.empty_like(h, memory_format=layout(h))
    return dh, like(weight), like(bias), dmap, like(scale), like(shift)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    h, groups, weight, bias, gamma_beta, scale, shift, silu = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(h, mean, rstd, weight, bias, gamma_beta, scale, shift)
    ctx.groups, ctx.silu = groups, silu


def _backward(ctx: Any, grad: Tensor, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
    h, mean, rstd, weight, bias, gamma_beta, scale, shift = ctx.saved_tensors
    grads = norm_modulate_silu_backward(
        grad, h, mean, rstd, ctx.groups, weight, bias, gamma_beta, scale, shift, ctx.silu
    )
    dh, dweight, dbias, dmap, dscale, dshift = (g if g.numel() else None for g in grads)
    return dh, None, dweight, dbias, dmap, dscale, dshift, None


norm_modulate_silu.register_autograd(_backward, setup_context=_setup)


def run(
    h: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    gamma_beta: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
    differentiable: bool,
) -> Tensor:
    """The output of the op.

    Where no gradient is asked for and nothing traces, the dispatcher is passed by: it takes as long as the
    kernel of a small map. Nor on the meta device, where the op has shapes and the twin's steps are not it.
    """
    direct = type(h) is Tensor and not (differentiable or h.is_meta or torch.compiler.is_compiling())
    call = implementation(h).forward if direct else norm_modulate_silu
    out: tuple[Tensor, Tensor, Tensor] = call(h, groups, weight, bias, gamma_beta, scale, shift, silu)
    return out[0]
