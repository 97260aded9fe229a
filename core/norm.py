"""Group normalisation with everything that follows it at a norm site."""

import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-5


def norm_modulate_silu(
    h: Tensor,
    groups: int,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """SiLU(((weight GN(h) + bias) (1 + gamma) + beta) (1 + scale) + shift).

    One function for the whole chain, so that one kernel can take its place. GN accumulates in fp32 whatever
    the dtype of `h`.

    Parameters
    ----------
    h : Tensor (B, C, H, W)
    groups : int
        Divides C.
    weight, bias : Tensor (C,) or None
        Affine parameters of a plain group normalisation.
    gamma, beta : Tensor (B or 1, C, H or 1, W or 1) or None
        The condition's modulation (SPADE, Park et al. 2019, equation 1; SDM, section 3.2).
    scale, shift : Tensor (B, C, 1, 1) or None
        The time step's modulation (ADM, Dhariwal and Nichol 2021, section 3, AdaGN).

    Returns
    -------
    Tensor (B, C, H, W)
    """
    y = F.group_norm(h, groups, weight, bias, EPS)
    if gamma is not None and beta is not None:
        y = y * (1 + gamma) + beta
    if scale is not None and shift is not None:
        y = y * (1 + scale) + shift
    return F.silu(y)


class SiteNorm(nn.GroupNorm):
    """What stands at a norm site where no condition enters: affine GN, scale-shift, SiLU."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(groups, channels, eps=EPS)

    def forward(self, h: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        return norm_modulate_silu(
            h, self.num_groups, weight=self.weight, bias=self.bias, scale=scale, shift=shift
        )
