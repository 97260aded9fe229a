"""Backbone + conditioners + injections: the network as training and sampling see it."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from .backbone import Backbone, Inject
from .conditioning import Conditioner, Observation, Signal, Spec, at, merge
from .errors import MsdmError
from .injection import Injector, Site, State
from .recipe import DiffusionSection
from .sample import Sample
from .schedule import NoiseSchedule

States = dict[str, list[tuple[Injector, State]]]


class Injection(nn.Module):
    """One entry of the recipe's `injectors`: conditions, joined, that enter at some sites.

    Parameters
    ----------
    sources : sequence of str
        Names of the conditioners.
    spec : Spec
        Of the joined signal.
    injectors : mapping site name -> Injector
    """

    def __init__(self, sources: Sequence[str], spec: Spec, injectors: Mapping[str, Injector]) -> None:
        super().__init__()
        self.sources = tuple(sources)
        self.spec = spec
        self.sites = tuple(injectors)
        # a module's name may not hold a dot
        self.injectors = nn.ModuleDict({site.replace(".", "_"): i for site, i in injectors.items()})

    def at(self, site: str) -> Injector:
        """The injector at a site."""
        injector = self.injectors[site.replace(".", "_")]
        assert isinstance(injector, Injector)
        return injector

    def signal(self, signals: Mapping[str, Signal]) -> Signal:
        """The joined signal of this entry's conditions."""
        return merge([signals[name] for name in self.sources], self.spec.kind)


class Denoiser(nn.Module):
    """The network and everything that conditions it.

    Parameters
    ----------
    backbone : Backbone
        Gives up its own norms where an injection takes over.
    conditioners : mapping name -> Conditioner
        In the recipe's order.
    injections : sequence of Injection
    diffusion : DiffusionSection

    Raises
    ------
    MsdmError
        Two injections claim one norm site.
    """

    def __init__(
        self,
        backbone: Backbone,
        conditioners: Mapping[str, Conditioner],
        injections: Sequence[Injection],
        diffusion: DiffusionSection,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.conditioners = nn.ModuleDict(dict(conditioners))
        self.injections = nn.ModuleList(injections)
        self.diffusion = diffusion
        self.schedule = NoiseSchedule.named(diffusion.schedule, diffusion.timesteps)
        by_name = {site.name: site for site in backbone.sites}
        owned: list[str] = []
        for injection in injections:
            for name in injection.sites:
                if by_name[name].kind == "norm" and name in owned:
                    raise MsdmError(
                        f"two injectors claim the norm site {name!r}: a norm site has one owner; give one of "
                        f"them other sites, or join their conditions in one `from`"
                    )
                owned.append(name)
        backbone.release(name for name in owned if by_name[name].kind == "norm")
        self.injected: tuple[Site, ...] = tuple(s for s in backbone.sites if s.name in set(owned))

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions, in the recipe's order."""
        return tuple(self.conditioners)

    @property
    def encoder_sees_condition(self) -> bool:
        """Whether any condition enters in or before the encoder; otherwise guidance runs it once."""
        return any(site.sees_encoder for site in self.injected)

    def conditioner(self, name: str) -> Conditioner:
        """A conditioner by name."""
        found = self.conditioners[name]
        assert isinstance(found, Conditioner)
        return found

    @property
    def by_name(self) -> dict[str, Conditioner]:
        """The conditioners, in the recipe's order."""
        return {name: self.conditioner(name) for name in self.names}

    def observe(self, fields: Sequence[Sample]) -> dict[str, Observation]:
        """What every condition sees of fields of one size, as a batch on the CPU."""
        return {name: c.collate([c.observe(f) for f in fields]) for name, c in self.by_name.items()}

    def encode(self, observations: Mapping[str, Observation]) -> dict[str, Signal]:
        """Every condition of a batch, encoded on the device of its observations."""
        return {name: c.encode(observations[name]) for name, c in self.by_name.items()}

    def drop(self, signals: Mapping[str, Signal], absent: Mapping[str, Tensor]) -> dict[str, Signal]:
        """The signals, with the rows marked in absent[name] (B,) bool replaced by the absent condition."""
        out = dict(signals)
        for name, rows in absent.items():
            out[name] = signals[name].where(rows, self.conditioner(name).null(signals[name]))
        return out

    def present(self, signals: Mapping[str, Signal], names: frozenset[str]) -> dict[str, Signal]:
        """The signals, with the conditions that are not in `names` absent; one row if all are."""
        like = signals if names else {k: at(v, slice(1)) for k, v in signals.items()}
        return {k: v if k in names else self.conditioner(k).null(v) for k, v in like.items()}

    def prepare(self, signals: Mapping[str, Signal]) -> States:
        """All that depends on the conditions alone, per site: computed once, used at every step."""
        states: States = {}
        for site, injector, signal in self._entries(signals):
            states.setdefault(site, []).append((injector, injector.prepare(signal)))
        return states

    def _entries(self, signals: Mapping[str, Signal]) -> Iterator[tuple[str, Injector, Signal]]:
        """What enters where: each site, its injector and the joined signal."""
        for injection in self.injections:
            assert isinstance(injection, Injection)
            signal = injection.signal(signals)
            for site in injection.sites:
                yield site, injection.at(site), signal

    @staticmethod
    def bind(states: States) -> Inject:
        """What the backbone calls at its sites, given prepared states."""

        def inject(site: str, h: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
            for injector, state in states.get(site, ()):
                h = injector.inject(h, state, scale, shift)
            return h

        return inject

    def live(self, signals: Mapping[str, Signal]) -> Inject:
        """The same, preparing at the site itself: under checkpointing nothing is kept for backward."""
        entries: dict[str, list[tuple[Injector, Signal]]] = {}
        for name, injector, signal in self._entries(signals):
            entries.setdefault(name, []).append((injector, signal))

        def inject(site: str, h: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
            for injector, signal in entries.get(site, ()):
                h = injector.inject(h, injector.prepare(signal), scale, shift)
            return h

        return inject

    def forward(self, x: Tensor, t: Tensor, signals: Mapping[str, Signal]) -> Tensor:
        """The raw prediction (B, 3 or 6, H, W) of x (B, 3, H, W) at time steps t (B,), fp32."""
        inject = self.live(signals)
        return self.backbone.decode(self.backbone.encode(x, t, inject), inject).float()


def to_device(observations: Mapping[str, Observation], device: torch.device) -> dict[str, Observation]:
    """Observations of a batch, moved."""
    return {
        name: {k: v.to(device, non_blocking=True) for k, v in o.items()} for name, o in observations.items()
    }
