"""Normalisation, modulation, scale-shift and SiLU in plain torch: what the kernels are measured against.

x: a sample's feature map, m, r: mean and 1 / sqrt(variance + eps) of its group; then
n = (x - m) r weight + bias, u = n (1 + gamma) + beta, z = u (1 + scale) + shift, out = z sigmoid(z).
"""

import torch
from torch import Tensor

EPS = 1e-5

Gradients = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def layout(h: Tensor) -> torch.memory_format:
    """channels_last where `h` is, otherwise contiguous: the memory format of every result."""
    last = h.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _rows(length: int, patch: int, device: torch.device) -> Tensor:
    """Which row of a patch stands at each row of a map."""
    near, far = patch // 2, patch - 1 - patch // 2
    i = torch.arange(length, device=device)
    return torch.where(i >= length - far, i - length + patch, i.clamp(max=near))


def expand_patch(patch: Tensor, size: tuple[int, int]) -> Tensor:
    """The map that a patch stands for.

    Zero-padded convolutions of a constant map differ from their centre at the borders only: two of 3 x 3 in
    the outer two rows and columns, so that 5 x 5 pixels hold a map of any size.

    Parameters
    ----------
    patch : Tensor (B, C, h', w')
        Along each axis as large as the map, or odd and smaller.
    size : (int, int)
        (H, W).

    Returns
    -------
    Tensor (B, C, H, W)
        The patch's borders at the borders, its centre row and column everywhere between; differentiable.
    """
    for axis, length in ((2, size[0]), (3, size[1])):
        if patch.shape[axis] != length:
            patch = patch.index_select(axis, _rows(length, patch.shape[axis], patch.device))
    return patch


def _channels(stats: Tensor, channels: int) -> Tensor:
    """Per group (B, G) as per channel (B, C, 1, 1)."""
    return stats.repeat_interleave(channels // stats.shape[1], dim=1)[:, :, None, None]


def _group_mean(x: Tensor, groups: int) -> Tensor:
    """Mean of each sample and group, (B, G)."""
    # over pixels first: the quick order where x is channels_last
    return x.mean((2, 3)).reshape(x.shape[0], groups, -1).mean(2)


def _affine(x: Tensor, factor: Tensor | None, offset: Tensor | None) -> Tensor:
    """x factor + offset, each where given and broadcast over pixels, in the memory of `x`."""
    if factor is not None:
        x.mul_(factor[..., None, None])
    if offset is not None:
        x.add_(offset[..., None, None])
    return x


def forward(
    h: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    gamma_beta: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output and its statistics.

    Parameters
    ----------
    h : Tensor (B, C, H, W) float32, bfloat16 or float64
    groups : int
    weight, bias : Tensor (C,) or None
        These, `scale`, `shift` and the statistics are fp32, or fp64 where `h` is.
    gamma_beta : Tensor (B or 1, 2 C, h', w') or None
        In the dtype of `h`; a map of H x W or a patch.
    scale, shift : Tensor (B, C) or None
    silu : bool

    Returns
    -------
    out : Tensor (B, C, H, W)
        In the dtype and memory format of `h`.
    mean, rstd : Tensor (B, G)
    """
    c = h.shape[1]
    x = h.to(torch.promote_types(h.dtype, torch.float32))
    # shifted by a value of each group's own: a mean far from zero costs no digits
    first = x[:, :: c // groups, 0, 0]
    y = x - _channels(first, c)
    rest = _group_mean(y, groups)
    y.sub_(_channels(rest, c))
    rstd = _group_mean(y.square(), groups).add_(EPS).rsqrt_()
    y = _affine(y.mul_(_channels(rstd, c)), weight, bias)
    if gamma_beta is not None:
        gamma, beta = expand_patch(gamma_beta, (h.shape[2], h.shape[3])).chunk(2, dim=1)
        y.addcmul_(y, gamma.to(y.dtype)).add_(beta)
    y = _affine(y, None if scale is None else 1 + scale, shift)
    if silu:
        torch.nn.functional.silu(y, inplace=True)
    return y.to(h.dtype).contiguous(memory_format=layout(h)), first + rest, rstd


def backward(
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
) -> Gradients:
    """Gradients by h, weight, bias, gamma_beta (B, 2 C, H, W), scale and shift; None where there is no input.

    Everything between is recomputed from `h`, `gamma_beta` and the statistics.
    """
    c = h.shape[1]
    r = _channels(rstd, c)
    normed = (h.to(mean.dtype) - _channels(mean, c)) * r
    n = _affine(normed.clone(), weight, bias)
    one: Tensor | None = None
    u = n
    if gamma_beta is not None:
        gamma, beta = gamma_beta.to(mean.dtype).chunk(2, dim=1)
        one = 1 + gamma
        u = n * one + beta
    dz = grad.to(mean.dtype)
    if silu:
        z = _affine(u.clone(), None if scale is None else 1 + scale, shift)
        s = z.sigmoid()
        dz = dz * s * (1 + z * (1 - s))
    dscale = None if scale is None else (dz * u).sum((2, 3))
    dshift = None if shift is None else dz.sum((2, 3))
    du = dz if scale is None else dz * (1 + scale[:, :, None, None])
    dmap = None if gamma_beta is None else torch.cat([du * n, du], dim=1).to(h.dtype)
    dn = du if one is None else du * one
    dweight = None if weight is None else (dn * normed).sum((0, 2, 3))
    dbias = None if bias is None else dn.sum((0, 2, 3))
    if weight is not None:
        dn = dn * weight[:, None, None]
    inward = _channels(_group_mean(dn, groups), c) + normed * _channels(_group_mean(dn * normed, groups), c)
    dh = ((dn - inward) * r).to(h.dtype).contiguous(memory_format=layout(h))
    if dmap is not None:
        dmap = dmap.contiguous(memory_format=layout(h))
    return dh, dweight, dbias, dmap, dscale, dshift
