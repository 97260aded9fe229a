"""Concatenation of a map with the noisy image."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ...core.conditioning import PluginConfig, Signal, Spec, SpecKind
from ...core.injection import Injector, Site, SiteKind, State


class ConcatConfig(PluginConfig):
    """Concatenation has no settings."""


class Concat(Injector):
    """A map as further input channels (Saharia et al. 2022, Palette, section 3).

    A convolution of [x, m] is the sum of one of x and one of m: the second does not depend on x_t, so it is
    computed once, and no width of the backbone depends on the condition. Behind an autoencoder each place of
    the latent sees all pixels of its square (space to depth).
    """

    Config: ClassVar[type[PluginConfig]] = ConcatConfig
    accepts: ClassVar[frozenset[SpecKind]] = frozenset({"map"})
    site_kinds: ClassVar[frozenset[SiteKind]] = frozenset({"input"})

    def __init__(self, config: ConcatConfig, spec: Spec, site: Site) -> None:
        super().__init__(config, spec, site)
        # the bias is that of the backbone's own input convolution
        self.conv = nn.Conv2d(spec.width * site.stride**2, site.channels, 3, padding=1, bias=False)

    def prepare(self, signal: Signal) -> State:
        m = signal.data if self.site.stride == 1 else F.pixel_unshuffle(signal.data, self.site.stride)
        return {"added": self.conv(m)}

    def inject(
        self, h: Tensor, state: State, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        return h + state["added"]
