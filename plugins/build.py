"""A recipe becomes objects: the only place that does it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ..core.autoencoder import Autoencoder, Pixels, title
from ..core.backbone import Backbone
from ..core.conditioning import Conditioner, Spec
from ..core.denoiser import Denoiser, Injection
from ..core.errors import MsdmError
from ..core.injection import Injector, Site, match_sites, pair
from ..core.recipe import InjectorEntry, Recipe
from ..core.seeds import seed_for
from .check import configure, place
from .host import Host, get_host


def build_conditioners(
    recipe: Recipe,
    *,
    rows: Sequence[Mapping[str, str]] | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    host: Host | None = None,
) -> dict[str, Conditioner]:
    """The conditioners of a recipe, by name and in its order.

    Parameters
    ----------
    recipe : Recipe
    rows : sequence of mapping column -> str, or None
        The manifest's rows of the training split: facts are learned from them.
    facts : mapping name -> facts, or None
        What `collect_facts` gave, as a checkpoint holds it. Exactly one of `rows` and `facts` is given.
    host : Host or None
        None is the host of this process.

    Returns
    -------
    dict of str -> Conditioner
        On the CPU, their weights drawn from the recipe's `train.seed`.

    Raises
    ------
    MsdmError
        Unknown plugin, illegal settings, data that lack what a setting names, or facts that lack a condition.
    ValueError
        Neither or both of `rows` and `facts` are given.
    """
    if (rows is None) == (facts is None):
        raise ValueError("give exactly one of rows and facts")
    host = host or get_host()
    built: dict[str, Conditioner] = {}
    for name, entry in recipe.conditioners.items():
        path = f"conditioners.{name}"
        cls, config = configure(recipe, "conditioner", path, entry, host)
        with place(recipe, f"{path}.masks"):
            _check_kinds(recipe, getattr(config, "masks", ()))
        with place(recipe, path), _seeded(recipe, path):
            if not name or "." in name or hasattr(torch.nn.ModuleDict(), name):
                raise MsdmError(
                    f"a condition cannot be called {name!r}, as torch cannot name a module so; legal: a name "
                    f"without a dot that is no attribute of a module, such as {name.replace('.', '_')}_1"
                )
            if facts is not None and name not in facts:
                raise MsdmError(
                    f"the weights hold no facts for it, only for: {', '.join(sorted(facts)) or 'nothing'}; "
                    f"use the recipe that they were trained with"
                )
            known = facts[name] if facts is not None else cls.fit(config, rows)
            built[name] = cls(config, known) if facts is None else _restored(cls, config, known)
    return built


def _restored(cls: type[Conditioner], config: Any, known: Any) -> Conditioner:
    """A conditioner of the facts in a file, which anyone may have written."""
    try:
        return cls(config, known)
    except MsdmError:
        raise
    except Exception as error:
        raise MsdmError(
            f"the facts that the weights hold make no {cls.__name__} ({type(error).__name__}: {error}); get "
            f"the file anew"
        ) from error


def _check_kinds(recipe: Recipe, kinds: Sequence[str]) -> None:
    legal = recipe.data.masks
    missing = [kind for kind in kinds if kind not in legal]
    if missing:
        raise MsdmError(
            f"{missing[0]!r} is not in data.masks, which is {', '.join(legal)}; name the same kinds in both, "
            f"such as [{', '.join(legal)}]"
        )


def collect_facts(conditioners: Mapping[str, Conditioner]) -> dict[str, dict[str, Any]]:
    """What the conditioners learned of the training set, by name: plain JSON, saved with the weights."""
    return {name: dict(conditioner.facts) for name, conditioner in conditioners.items()}


def build_denoiser(
    recipe: Recipe,
    conditioners: Mapping[str, Conditioner],
    host: Host | None = None,
    *,
    pretrained: bool = True,
) -> Denoiser:
    """The network of a recipe around its conditioners.

    Parameters
    ----------
    recipe : Recipe
    conditioners : mapping name -> Conditioner
        From `build_conditioners`.
    host : Host or None
        None is the host of this process.
    pretrained : bool
        Whether the autoencoder's weights are loaded: where only shapes are wanted, they are not needed.

    Returns
    -------
    Denoiser
        On the CPU. The weights are drawn from `train.seed`, those of each injector apart from those of the
        backbone: recipes that differ in their conditions start from the same backbone.

    Raises
    ------
    MsdmError
        Unknown plugin, illegal settings, a condition that an injector does not take, conditions that do not
        join, a site that does not exist, a crop that the backbone cannot halve often enough, or weights of
        the autoencoder that are not there.
    """
    host = host or get_host()
    autoencoder = _autoencoder(recipe, host, pretrained)
    channels, stride = autoencoder.channels, autoencoder.stride
    cls, config = configure(recipe, "backbone", "backbone", recipe.backbone, host)
    with place(recipe, "backbone"), _seeded(recipe, "backbone"):
        learned = recipe.diffusion.variance == "learned_range"
        backbone: Backbone = cls(config, channels, 2 * channels if learned else channels)
    backbone.checkpointing = recipe.train.checkpointing is True
    multiple = backbone.multiple * stride
    if recipe.data.crop % multiple:
        whose = "backbone needs" if stride == 1 else f"backbone needs in latents of stride {stride}"
        raise MsdmError(
            f"recipe {recipe.name}: data.crop: {recipe.data.crop} is not a multiple of {multiple}, which the "
            f"{whose}; choose one"
        )
    # maps come at the size of the image, whatever the backbone sees
    sites = [s if s.kind == "embedding" else replace(s, stride=s.stride * stride) for s in backbone.sites]
    injections = [
        _injection(recipe, f"injectors.{i}", entry, conditioners, sites, host)
        for i, entry in enumerate(recipe.injectors)
    ]
    with place(recipe, "injectors"):
        return Denoiser(backbone, conditioners, injections, recipe.diffusion, autoencoder)


def _autoencoder(recipe: Recipe, host: Host, pretrained: bool) -> Autoencoder:
    if recipe.autoencoder is None:
        return Pixels()
    cls, config = configure(recipe, "autoencoder", "autoencoder", recipe.autoencoder, host)
    with place(recipe, "autoencoder"):
        try:
            autoencoder: Autoencoder = cls(config)
            if pretrained:
                autoencoder.initialise()
            fits = min(autoencoder.channels, autoencoder.stride) >= 1
        except (MsdmError, MemoryError):
            raise
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            what = f"{cls.__module__}.{cls.__qualname__}"
            raise MsdmError(f"{what} fails: {text}; mend or update its plugin") from error
        if not fits:
            raise MsdmError(f"{title(autoencoder)} has no channels, or no stride; mend or update its plugin")
    return autoencoder


def _injection(
    recipe: Recipe,
    path: str,
    entry: InjectorEntry,
    conditioners: Mapping[str, Conditioner],
    sites: Sequence[Site],
    host: Host,
) -> Injection:
    cls, config = configure(recipe, "injector", path, entry, host)
    with place(recipe, f"{path}.from"):
        for name in entry.source:
            spec = conditioners[name].spec
            pair(spec, cls, condition=name, name=entry.type, legal=_takers(spec, host))
        spec = _join({name: conditioners[name].spec for name in entry.source})
    with place(recipe, f"{path}.at"):
        chosen = match_sites(entry.at, sites, cls)
    injectors = {}
    for site in chosen:
        with _seeded(recipe, f"{path}.{site.name}"):
            injectors[site.name] = cls(config, spec, site)
    return Injection(entry.source, spec, injectors)


def _takers(spec: Spec, host: Host) -> Iterator[str]:
    """The injectors that take a condition; one that does not load takes none."""
    for name in host.names("injector"):
        try:
            injector: type[Injector] = host.load("injector", name)
        except MsdmError:
            continue
        if spec.kind in getattr(injector, "accepts", ()):
            yield name


def _join(specs: Mapping[str, Spec]) -> Spec:
    """The form of several conditions as one, as `core.conditioning.merge` joins them."""
    kinds = {spec.kind for spec in specs.values()}
    if len(kinds) > 1:
        each = ", ".join(f"{name} is a {spec.kind}" for name, spec in specs.items())
        raise MsdmError(f"one injector takes conditions of one kind: {each}; give each kind its own injector")
    (kind,) = kinds
    widths = [spec.width for spec in specs.values()]
    if kind != "tokens":
        return Spec(kind, sum(widths))
    if len(set(widths)) > 1:
        each = ", ".join(f"{name} is {spec.width} wide" for name, spec in specs.items())
        raise MsdmError(f"tokens join only at equal width: {each}; give each width its own injector")
    return Spec(kind, widths[0])


@contextmanager
def _seeded(recipe: Recipe, part: str) -> Iterator[None]:
    """Draw the weights of a part from the recipe's seed, and leave the caller's random state alone."""
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which seeds the accelerators too and is not undone there
        torch.default_generator.manual_seed(seed_for(recipe.train.seed, "weights", part))
        yield
