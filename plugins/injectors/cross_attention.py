"""Cross-attention: every pixel attends to tokens."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from ...core.attention import CrossAttention
from ...core.conditioning import PluginConfig, Signal, Spec, SpecKind
from ...core.errors import MsdmError
from ...core.injection import Injector, Site, SiteKind, State


class CrossAttentionConfig(PluginConfig):
    """Settings of cross-attention."""

    heads: int = Field(8, ge=1, description="Attention heads.")


class CrossAttentionInjector(Injector):
    """h + MultiHead(h, tokens) (MSDM, equations 1 and 2): the attended features are added.

    Few tokens are folded into two small matrices per sample (`CrossAttention.fold`), exact to rounding.

    Raises
    ------
    MsdmError
        `heads` does not divide the site's width.
    """

    Config: ClassVar[type[PluginConfig]] = CrossAttentionConfig
    accepts: ClassVar[frozenset[SpecKind]] = frozenset({"tokens"})
    site_kinds: ClassVar[frozenset[SiteKind]] = frozenset({"residual"})

    def __init__(self, config: CrossAttentionConfig, spec: Spec, site: Site) -> None:
        super().__init__(config, spec, site)
        if site.channels % config.heads:
            raise MsdmError(
                f"cross_attention: heads {config.heads} does not divide the {site.channels} channels of site "
                f"{site.name!r}"
            )
        self.attention = CrossAttention(site.channels, spec.width, config.heads)

    def prepare(self, signal: Signal) -> State:
        return self.attention.prepare(signal.data, signal.mask)

    def inject(
        self, h: Tensor, state: State, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        out: Tensor = self.attention(h, state)
        return out
