"""The layers of the U-Net of ADM and SDM. Each is called as ``layer(h, emb, inject)``."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.attention import SelfAttention, zero
from ..core.backbone import Inject
from ..core.injection import Site
from ..core.kernels.convolutions import doubled_conv
from ..core.norm import SiteNorm
from ..core.precision import full_precision

Resample = Literal["up", "down"]


def resample(h: Tensor, how: Resample | None) -> Tensor:
    """Nearest upsampling or 2 x 2 mean, by two."""
    if how == "up":
        return F.interpolate(h, scale_factor=2, mode="nearest")
    if how == "down":
        return F.avg_pool2d(h, 2)
    return h


def resampled_conv(conv: nn.Module, h: Tensor, how: Resample | None) -> Tensor:
    """A convolution of the resampled map, in one where it can."""
    out: Tensor = doubled_conv(conv, h) if how == "up" else conv(resample(h, how))
    return out


class ResidualBlock(nn.Module):
    """norm, SiLU, [resample,] conv; norm with the time's scale-shift, SiLU, dropout, conv; skip (ADM, SDM).

    Its two norms are sites; `in_norm` and `out_norm` are None where an injector has taken over.

    Parameters
    ----------
    name, region : str
        Prefix of the sites' names, and their region.
    channels_in, channels_out, emb_channels : int
    stride : int
        Of the block's input.
    groups : int
    dropout : float
    scale_shift : bool
        The time embedding scales and shifts after the second norm; otherwise it is added before it.
    how : {'up', 'down'} or None
        Resampling between the first norm and the first conv.
    """

    def __init__(
        self,
        name: str,
        region: str,
        channels_in: int,
        channels_out: int,
        emb_channels: int,
        *,
        stride: int,
        groups: int,
        dropout: float,
        scale_shift: bool,
        how: Resample | None = None,
    ) -> None:
        super().__init__()
        self.how: Resample | None = how
        out_stride = {"up": stride // 2, "down": stride * 2}.get(how or "", stride)
        self.sites = (
            Site(f"{name}.in_norm", region, "norm", channels_in, stride, groups),
            Site(f"{name}.out_norm", region, "norm", channels_out, out_stride, groups),
        )
        self.scale_shift = scale_shift
        self.in_norm: SiteNorm | None = SiteNorm(channels_in, groups)
        self.in_conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.emb = nn.Linear(emb_channels, (2 if scale_shift else 1) * channels_out)
        self.out_norm: SiteNorm | None = SiteNorm(channels_out, groups)
        self.dropout = nn.Dropout(dropout)
        self.out_conv = zero(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, emb: Tensor, inject: Inject) -> Tensor:
        in_site, out_site = self.sites
        h = self.in_norm(x) if self.in_norm is not None else inject(in_site.name, x)
        h = resampled_conv(self.in_conv, h, self.how)
        with full_precision(emb.device):  # a few numbers, which every pixel is scaled by
            time = self.emb(F.silu(emb.to(self.emb.weight.dtype)))[:, :, None, None]
        scale: Tensor | None = None
        shift: Tensor | None = None
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
        else:
            h = h + time.to(h.dtype)
        if self.out_norm is not None:
            h = self.out_norm(h, scale, shift)
        else:
            h = inject(out_site.name, h, scale, shift)
        h = self.out_conv(self.dropout(h))
        out: Tensor = self.skip(resample(x, self.how)) + h
        return out


class Attention(nn.Module):
    """Self-attention, if any, then a residual site."""

    def __init__(
        self, name: str, region: str, channels: int, head_channels: int | None, *, stride: int, groups: int
    ) -> None:
        super().__init__()
        self.sites = (Site(f"{name}.residual", region, "residual", channels, stride, groups),)
        self.attention = None if head_channels is None else SelfAttention(channels, head_channels, groups)

    def forward(self, h: Tensor, emb: Tensor, inject: Inject) -> Tensor:
        if self.attention is not None:
            h = self.attention(h)
        return inject(self.sites[0].name, h)


class StridedConv(nn.Module):
    """Resampling with a convolution, where the model has no resampling residual blocks (ADM)."""

    sites: tuple[Site, ...] = ()

    def __init__(self, channels: int, how: Resample) -> None:
        super().__init__()
        self.how: Resample = how
        self.conv = nn.Conv2d(channels, channels, 3, stride=2 if how == "down" else 1, padding=1)

    def forward(self, h: Tensor, emb: Tensor, inject: Inject) -> Tensor:
        out: Tensor = doubled_conv(self.conv, h) if self.how == "up" else self.conv(h)
        return out


def timestep_embedding(t: Tensor, width: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoids of the time step, cosines first (ADM, `timestep_embedding`).

    Parameters
    ----------
    t : Tensor (B,)
        Time steps, integer or fractional.
    width : int
        Where it is odd, the last entry is 0.

    Returns
    -------
    Tensor (B, width) float32
    """
    half = width // 2
    freqs = torch.exp(-torch.log(torch.tensor(max_period)) * torch.arange(half, device=t.device) / half)
    args = t[:, None].float() * freqs[None]
    return F.pad(torch.cat([args.cos(), args.sin()], dim=-1), (0, width % 2))
