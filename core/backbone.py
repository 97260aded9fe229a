"""The Backbone interface: a network that lists its sites and asks to be injected at each."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from .conditioning import PluginConfig
from .injection import Site


class Inject(Protocol):
    """What a backbone calls at each of its sites: ``h = inject(site_name, h, scale, shift)``.

    Where no injector stands, h comes back as it is.
    """

    def __call__(
        self, site: str, h: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor: ...


@dataclass(frozen=True)
class Features:
    """What the encoder hands to the decoder.

    Attributes
    ----------
    h : Tensor (B, C, H/stride, W/stride)
    skips : tuple of Tensor
        In the order in which they were made.
    emb : Tensor (B, D)
        The time embedding.
    """

    h: Tensor
    skips: tuple[Tensor, ...]
    emb: Tensor


class Backbone(nn.Module, ABC):
    """A network from a noisy image, or a noisy latent, and a time step to a prediction.

    Built from its config and the numbers of channels in and out. `encode` and `decode` are apart so that what
    sees no condition can run once for both branches of guidance.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    sites: tuple[Site, ...]
    multiple: int
    """Height and width must be multiples of this."""
    checkpointing: bool = False
    """Recompute activations in the backward pass."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Modules that `encode` and `decode` call by their forward pass, each once, none within another.

        They are what is gathered at a time where weights are split among processes; what is in none of them
        is there for all of a pass.
        """
        return ()

    def __init__(self, config: Any, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.config = config
        self.in_channels = in_channels
        self.out_channels = out_channels

    @abstractmethod
    def release(self, sites: Iterable[str]) -> None:
        """Drop the backbone's own normalisation at norm sites that an injector takes over."""

    @abstractmethod
    def encode(self, x: Tensor, t: Tensor, inject: Inject) -> Features:
        """Features of x (B, in_channels, H, W) at time steps t (B,)."""

    @abstractmethod
    def decode(self, features: Features, inject: Inject) -> Tensor:
        """The prediction (B, out_channels, H, W)."""
