"""SPADE: a map modulates the normalised features at every pixel."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ...core.conditioning import PluginConfig, Signal, Spec, SpecKind
from ...core.injection import Injector, Site, SiteKind, State
from ...core.norm import norm_modulate_silu

PATCH = 5
"""Side of what stands for gamma and beta of a constant map, see `core.norm.expand_patch`."""


class SpadeConfig(PluginConfig):
    """Settings of SPADE."""

    hidden: int = Field(128, ge=1, le=2**16, description="Width of the hidden convolution.")


class Spade(Injector):
    """GN(h) (1 + gamma(m)) + beta(m) with gamma, beta from two convolutions of the map m.

    Spatially-adaptive normalisation (Park et al. 2019, equation 1) over group normalisation without affine
    parameters, as SDM has it (Wang et al. 2022, section 3.2). The map is resized by nearest neighbour; gamma
    and beta are one convolution.
    """

    Config: ClassVar[type[PluginConfig]] = SpadeConfig
    accepts: ClassVar[frozenset[SpecKind]] = frozenset({"map"})
    site_kinds: ClassVar[frozenset[SiteKind]] = frozenset({"norm"})

    def __init__(self, config: SpadeConfig, spec: Spec, site: Site) -> None:
        super().__init__(config, spec, site)
        self.shared = nn.Conv2d(spec.width, config.hidden, 3, padding=1)
        self.gamma_beta = nn.Conv2d(config.hidden, 2 * site.channels, 3, padding=1)

    def prepare(self, signal: Signal) -> State:
        m = signal.data
        if self.site.stride > 1:
            size = (m.shape[2] // self.site.stride, m.shape[3] // self.site.stride)
            m = F.interpolate(m, size=size, mode="nearest")
        if signal.constant and not torch.is_grad_enabled():
            # two 3 x 3 convolutions see the border from two pixels away: within, all is as at the centre
            m = m[:, :, :PATCH, :PATCH] if min(m.shape[2:]) > PATCH else m
        return {"gamma_beta": self.gamma_beta(F.relu(self.shared(m)))}

    def inject(
        self, h: Tensor, state: State, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        return norm_modulate_silu(
            h, self.site.groups, gamma_beta=state["gamma_beta"], scale=scale, shift=shift
        )
