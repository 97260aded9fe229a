"""Backbone + conditioners + injections: the network as training and sampling see it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from . import guard
from .autoencoder import Autoencoder, Pixels
from .backbone import Backbone, Inject
from .conditioning import Conditioner, Observation, Signal, Spec, at, merge
from .errors import MsdmError
from .injection import Injector, State
from .recipe import DiffusionSection
from .sample import Sample
from .schedule import NoiseSchedule

States = dict[str, list[tuple[Injector, State | Signal]]]
"""Per site, what enters there: an injector and its state, or the signal where it prepares at every step."""


class _Held:
    """An autoencoder beside a network: not among its modules, whose weights are trained and saved.

    Copies of the network share it.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)

    def __deepcopy__(self, memo: object) -> "_Held":
        return self


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
    autoencoder : Autoencoder or None
        What is diffused is its latents; None: images. It goes along to devices and is no part of the weights.

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
        autoencoder: Autoencoder | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.conditioners = nn.ModuleDict(dict(conditioners))
        self.injections = nn.ModuleList(injections)
        self.diffusion = diffusion
        self._held = _Held(autoencoder or Pixels())
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

    @property
    def autoencoder(self) -> Autoencoder:
        """What is between images and what is diffused."""
        return self._held.autoencoder

    @property
    def multiple(self) -> int:
        """Height and width of an image must be multiples of this."""
        return self.backbone.multiple * self.autoencoder.stride

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.autoencoder._apply(fn)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions, in the recipe's order."""
        return tuple(self.conditioners)

    @property
    def encoder_conditions(self) -> frozenset[str]:
        """The conditions that enter in or before the encoder: guidance runs it once for branches that agree
        on these."""
        encoder = {site.name for site in self.backbone.sites if site.sees_encoder}
        return frozenset(
            name
            for injection in self.injections
            if isinstance(injection, Injection) and encoder & set(injection.sites)
            for name in injection.sources
        )

    def conditioner(self, name: str) -> Conditioner:
        """A conditioner by name."""
        found = self.conditioners[name]
        assert isinstance(found, Conditioner)
        return found

    @property
    def by_name(self) -> dict[str, Conditioner]:
        """The conditioners, in the recipe's order."""
        return {name: self.conditioner(name) for name in self.names}

    def observe(self, fields: Sequence[Sample], names: Sequence[str] | None = None) -> dict[str, Observation]:
        """What the conditions see of fields of one size, as a batch on the CPU; None is every condition."""
        chosen = {name: self.conditioner(name) for name in (self.names if names is None else names)}
        return {
            name: guard.collate(name, c, [guard.observe(name, c, f) for f in fields])
            for name, c in chosen.items()
        }

    def encode(self, observations: Mapping[str, Observation], rows: int | None = None) -> dict[str, Signal]:
        """The conditions of a batch, encoded on the device of its observations; maps in channels_last.

        `rows` is the size of the batch, where that is to be checked.
        """
        return {
            name: _channels_last(guard.encode(name, self.conditioner(name), o, rows))
            for name, o in observations.items()
        }

    def drop(self, signals: Mapping[str, Signal], absent: Mapping[str, Tensor]) -> dict[str, Signal]:
        """The signals, with the rows marked in absent[name] (B,) bool replaced by the absent condition."""
        out = dict(signals)
        for name, rows in absent.items():
            out[name] = signals[name].where(rows, guard.null(name, self.conditioner(name), signals[name]))
        return out

    def present(self, signals: Mapping[str, Signal], names: frozenset[str]) -> dict[str, Signal]:
        """The signals, with the conditions that are not in `names` absent; one row if all are."""
        like = signals if names else {k: at(v, slice(1)) for k, v in signals.items()}
        return {k: v if k in names else guard.null(k, self.conditioner(k), v) for k, v in like.items()}

    def prepare(self, signals: Mapping[str, Signal], budget: int | None = None) -> States:
        """All that depends on the conditions alone, per site: computed once, used at every step.

        Parameters
        ----------
        signals : mapping name -> Signal
        budget : int or None
            Most bytes that are kept; None is no limit. Coarse sites come first: theirs are many and small. A
            site beyond the budget keeps the signal, which all such sites share, and prepares at every step:
            the same numbers, bit for bit. With 0 nothing is kept (training: nothing but what autograd needs).

        Returns
        -------
        States
        """
        entries = list(self._entries(signals))
        kept: list[State | Signal] = [signal for _, _, signal in entries]
        left, refused = budget, set()
        for k in sorted(range(len(entries)), key=lambda k: -entries[k][1].site.stride):
            _, injector, signal = entries[k]
            form = (type(injector), id(signal), injector.site.stride, injector.site.channels)
            if left == 0 or form in refused:
                continue
            state = guard.prepare(injector, injector.site.name, signal)
            if left is not None:
                size = nbytes(state)
                if size > left:
                    refused.add(form)
                    continue
                left -= size
            kept[k] = state
        states: States = {}
        for (site, injector, _), ready in zip(entries, kept, strict=True):
            states.setdefault(site, []).append((injector, ready))
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
                ready = guard.prepare(injector, site, state) if isinstance(state, Signal) else state
                h = guard.inject(injector, site, h, ready, scale, shift)
            return h

        return inject

    def forward(self, x: Tensor, t: Tensor, signals: Mapping[str, Signal]) -> Tensor:
        """The raw prediction (B, C or 2 C, H, W) of x (B, C, H, W) at time steps t (B,), fp32."""
        # prepared at the site itself: under checkpointing nothing of it is kept for the backward pass
        inject = self.bind(self.prepare(signals, budget=0))
        return self.backbone.decode(self.backbone.encode(x, t, inject), inject).float()


def _channels_last(signal: Signal) -> Signal:
    if signal.data.ndim != 4 or signal.constant:
        return signal
    return replace(signal, data=signal.data.contiguous(memory_format=torch.channels_last))


def nbytes(states: States | State) -> int:
    """Bytes that prepared states hold; what they share counts once, and a signal that is kept not at all."""
    storages = [t.untyped_storage() for t in tree_leaves(states) if isinstance(t, Tensor)]
    # not by address: storages on the meta device have none
    return sum({s._cdata: s.nbytes() for s in storages}.values())


def to_device(observations: Mapping[str, Observation], device: torch.device) -> dict[str, Observation]:
    """Observations of a batch, moved."""
    return {
        name: {k: v.to(device, non_blocking=True) for k, v in o.items()} for name, o in observations.items()
    }
