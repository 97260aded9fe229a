"""FiLM: a vector scales and shifts the normalised features, or joins the time embedding."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ...core.attention import zero
from ...core.conditioning import PluginConfig, Signal, Spec, SpecKind
from ...core.injection import Injector, Site, SiteKind, State
from ...core.norm import norm_modulate_silu


class FilmConfig(PluginConfig):
    """FiLM has no settings."""


class Film(Injector):
    """Feature-wise linear modulation of a vector v (Perez et al. 2018, equation 1).

    At a ``norm`` site GN(h) (1 + gamma(v)) + beta(v), without affine parameters of its own; at the
    ``embedding`` site the time embedding + W v, from which every block's scale and shift follow (AdaGN of a
    class label: ADM, section 3).
    """

    Config: ClassVar[type[PluginConfig]] = FilmConfig
    accepts: ClassVar[frozenset[SpecKind]] = frozenset({"vector"})
    site_kinds: ClassVar[frozenset[SiteKind]] = frozenset({"norm", "embedding"})

    def __init__(self, config: FilmConfig, spec: Spec, site: Site) -> None:
        super().__init__(config, spec, site)
        if site.kind == "norm":
            # starts as the plain norm: the condition has to earn its say
            self.linear = zero(nn.Linear(spec.width, 2 * site.channels))
        else:
            self.linear = nn.Linear(spec.width, site.channels)

    def prepare(self, signal: Signal) -> State:
        if self.site.kind == "embedding":
            return {"added": self.linear(signal.data)}
        return {"gamma_beta": self.linear(F.silu(signal.data))[:, :, None, None]}

    def inject(
        self, h: Tensor, state: State, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        if self.site.kind == "embedding":
            return h + state["added"]
        return norm_modulate_silu(
            h, self.site.groups, gamma_beta=state["gamma_beta"], scale=scale, shift=shift
        )
