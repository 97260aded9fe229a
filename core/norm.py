"""Group normalisation with everything that follows it at a norm site, in one pass."""

import torch
from torch import Tensor, nn

from .kernels.norm_op import run
from .kernels.norm_twin import EPS, expand_patch

__all__ = ["EPS", "SiteNorm", "expand_patch", "norm_modulate_silu"]


def _check(h: Tensor, groups: int, gamma_beta: Tensor | None) -> None:
    """Shapes that no kernel could tell apart from legal ones."""
    b, c, *size = h.shape
    if c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    if gamma_beta is None:
        return
    patch = gamma_beta.shape[2:]
    fits = all(p == s or (p % 2 and p < s) for p, s in zip(patch, size, strict=True))
    if gamma_beta.shape[0] not in (1, b) or gamma_beta.shape[1] != 2 * c or not fits:
        raise ValueError(
            f"gamma_beta of shape {tuple(gamma_beta.shape)} does not fit {tuple(h.shape)}: (B or 1, 2 C), "
            f"then H x W or a smaller patch of odd size"
        )


def norm_modulate_silu(
    h: Tensor,
    groups: int,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    gamma_beta: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """act(((weight GN(h) + bias) (1 + gamma) + beta) (1 + scale) + shift), in one kernel where there is one.

    GN is over `groups` groups of channels with biased variance and epsilon `EPS`; each term but the first is
    left out where it is None. Everything between input and output is fp32 (fp64 for fp64) whatever the dtype
    of `h`, autocast or not; the backward keeps `h`, `gamma_beta` and the statistics, and recomputes the rest.

    Parameters
    ----------
    h : Tensor (B, C, H, W) float32, bfloat16 or float64
        The kernels are at their best where it is channels_last.
    groups : int
        Divides C.
    weight, bias : Tensor (C,) or None
        Affine parameters of a plain group normalisation.
    gamma_beta : Tensor (B or 1, 2 C, h', w') or None
        The condition's modulation (SPADE, Park et al. 2019, equation 1; SDM, section 3.2): gamma, then beta.
        h' x w' is H x W, or a patch (see `expand_patch`); 1 x 1 is FiLM.
    scale, shift : Tensor (B or 1, C, 1, 1) or None
        The time step's modulation (ADM, Dhariwal and Nichol 2021, section 3, AdaGN).
    silu : bool
        act is SiLU; otherwise the identity.

    Returns
    -------
    Tensor (B, C, H, W)
        In the dtype and memory format of `h`.

    Raises
    ------
    ValueError
        The groups do not divide C, or `gamma_beta` has none of the shapes above.
    """
    _check(h, groups, gamma_beta)
    b, c, height, width = h.shape
    wide = torch.promote_types(h.dtype, torch.float32)
    weight = None if weight is None else weight.to(wide)
    bias = None if bias is None else bias.to(wide)
    scale = None if scale is None else scale.to(wide).flatten(1).expand(b, c)
    shift = None if shift is None else shift.to(wide).flatten(1).expand(b, c)
    if gamma_beta is not None and gamma_beta.shape[2:] == (1, 1):
        gamma, beta = gamma_beta.to(wide).expand(b, -1, -1, -1).flatten(1).chunk(2, dim=1)
        shift = _join(beta, scale, shift)
        scale = gamma if scale is None else gamma + scale + gamma * scale
        gamma_beta = None
    given = (h, weight, bias, gamma_beta, scale, shift)
    training = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    if gamma_beta is not None:
        gamma_beta = gamma_beta.to(h.dtype)
        if training:
            gamma_beta = expand_patch(gamma_beta, (height, width)).expand(b, -1, -1, -1)
    return run(h, groups, weight, bias, gamma_beta, scale, shift, silu, training)


def _join(beta: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """beta (1 + scale) + shift."""
    if scale is not None:
        beta = beta * (1 + scale)
    return beta if shift is None else beta + shift


class SiteNorm(nn.GroupNorm):
    """What stands at a norm site where no condition enters: affine GN, scale-shift, SiLU."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(groups, channels, eps=EPS)

    def forward(self, h: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        return norm_modulate_silu(
            h, self.num_groups, weight=self.weight, bias=self.bias, scale=scale, shift=shift
        )
