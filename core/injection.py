"""Where and how a condition enters a network: sites, the Injector interface, and their pairing."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from .conditioning import PluginConfig, Signal, Spec, SpecKind
from .errors import MsdmError, did_you_mean

SiteKind = Literal["norm", "residual", "embedding", "input"]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Site:
    """A named place in a backbone where a condition can enter.

    Attributes
    ----------
    name : str
        Unique in the backbone, such as ``decoder.3.in_norm``.
    region : str
        The part of the backbone: ``input``, ``embedding``, ``encoder``, ``middle``, ``bottleneck``,
        ``decoder`` or ``head``.
    kind : {'norm', 'residual', 'embedding', 'input'}
        ``norm``: the injector gets h (B, C, H, W) *before* normalisation with the time scale and shift, and
        owns normalisation, modulation, scale-shift and SiLU. ``residual``: gets h and returns h with
        something added. ``embedding``: the time embedding (B, D). ``input``: h after the first convolution.
    channels : int
        C (or D) at the site.
    stride : int
        Image size over feature size; 1 is full resolution. Behind an autoencoder the image is larger than
        what the backbone sees by the autoencoder's stride, which is counted in.
    groups : int
        Groups of the normalisation at a ``norm`` site.
    """

    name: str
    region: str
    kind: SiteKind
    channels: int
    stride: int = 1
    groups: int = 32

    @property
    def sees_encoder(self) -> bool:
        """Whether a condition injected here reaches the encoder."""
        return self.region in ("input", "embedding", "encoder")


class Injector(nn.Module, ABC):
    """How a condition enters at one site, in two steps: `prepare` once, `inject` at every step.

    A plugin sets `Config`, `accepts` and `site_kinds`. `prepare` may depend on the condition alone (never
    on x_t or t): its state is computed once per sample and kept over all steps. Training calls the same two
    methods with gradients.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    accepts: ClassVar[frozenset[SpecKind]] = frozenset()
    site_kinds: ClassVar[frozenset[SiteKind]] = frozenset()

    def __init__(self, config: Any, spec: Spec, site: Site) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.site = site

    @abstractmethod
    def prepare(self, signal: Signal) -> State:
        """All that can be computed from the condition alone.

        Parameters
        ----------
        signal : Signal
            As `spec` says; maps at the size of the image.

        Returns
        -------
        dict of str -> Tensor
            Each with the batch as its first dimension, or one row that stands for all.
        """

    @abstractmethod
    def inject(
        self, h: Tensor, state: State, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """Inject into `h`.

        Parameters
        ----------
        h : Tensor
            (B, C, H, W) or, at an embedding, (B, D).
        state : dict of str -> Tensor
            From `prepare`.
        scale, shift : Tensor (B, C, 1, 1) or None
            The time modulation of a ``norm`` site: y (1 + scale) + shift after the condition's.

        Returns
        -------
        Tensor
            In the shape of `h`; at a ``norm`` site after normalisation, modulation, scale-shift and SiLU.
        """


_ARTICLE: dict[SpecKind, str] = {"map": "a map", "tokens": "tokens", "vector": "a vector"}


def match_sites(patterns: Iterable[str], sites: Sequence[Site], injector: type[Injector]) -> list[Site]:
    """The sites that `patterns` name and that `injector` can take.

    Parameters
    ----------
    patterns : iterable of str
        Regions (``decoder``) or shell patterns over site names (``decoder.*.in_norm``).
    sites : sequence of Site
        What the backbone offers.
    injector : type of Injector

    Returns
    -------
    list of Site
        In the backbone's order.

    Raises
    ------
    MsdmError
        A pattern names no site, or none that the injector can take.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        named = [s for s in sites if s.region == pattern or fnmatchcase(s.name, pattern)]
        if not named:
            raise MsdmError(
                f"no site {pattern!r} in the backbone: {did_you_mean(pattern, {s.region for s in sites})}"
            )
        fitting = [s for s in named if s.kind in injector.site_kinds]
        if not fitting:
            kinds = sorted({s.kind for s in named})
            raise MsdmError(
                f"{pattern!r} offers {', '.join(kinds)} sites, and this injector takes "
                f"{', '.join(sorted(injector.site_kinds))} sites"
            )
        chosen |= {s.name for s in fitting}
    return [s for s in sites if s.name in chosen]


def pair(spec: Spec, injector: type[Injector], *, condition: str, name: str, legal: Iterable[str]) -> None:
    """Check that an injector takes a condition.

    Parameters
    ----------
    spec : Spec
        The condition's form.
    injector : type of Injector
    condition, name : str
        How the recipe calls them, for the message.
    legal : iterable of str
        The injectors that would take it, for the message; read only where it is needed.

    Raises
    ------
    MsdmError
        The pairing does not fit.
    """
    if spec.kind not in injector.accepts:
        raise MsdmError(
            f"conditioner {condition!r} emits {_ARTICLE[spec.kind]}, and injector {name!r} takes "
            f"{', '.join(_ARTICLE[kind] for kind in sorted(injector.accepts))}; injectors that take "
            f"{_ARTICLE[spec.kind]}: {', '.join(sorted(legal)) or 'none'}"
        )
