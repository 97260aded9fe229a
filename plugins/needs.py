"""The plugins that weights need, and what to install where one is missing."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from ..core.denoiser import Denoiser
from ..core.errors import MsdmError
from ..core.recipe import Recipe
from .host import OURS, Host, get_host

# They stand in a command that a user may copy, and come from a file that anyone may have written.
_Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+!-]*$", max_length=100)]


class Need(BaseModel):
    """A plugin and the package that it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: _Word
    name: _Word
    package: _Word
    version: _Word


_NEEDS = TypeAdapter(list[Need])


def needs(recipe: Recipe, host: Host | None = None) -> list[dict[str, str]]:
    """The plugins that a recipe names, with their packages and versions: JSON, for the weights' facts.

    Conditioners, injectors, autoencoder and backbone make the network; solver and mask operations are its
    defaults of sampling. Loggers are left out: they are not needed again.

    Parameters
    ----------
    recipe : Recipe
    host : Host or None
        None is the host of this process.

    Raises
    ------
    MsdmError
        There is no such plugin.
    """
    host = host or get_host()
    found = []
    for kind, name in sorted(set(_named(recipe))):
        origin = host.origin(kind, name)
        found.append({"kind": kind, "name": name, "package": origin.package, "version": origin.version})
    return found


def package_versions(recipe: Recipe, host: Host | None = None) -> dict[str, str]:
    """Versions of the packages whose code computes with a recipe: PyTorch, this one, those of its plugins."""
    plugins = {need["package"]: need["version"] for need in needs(recipe, host)}
    return {"torch": str(torch.__version__)} | dict(sorted(plugins.items()))


def _named(recipe: Recipe) -> Iterator[tuple[str, str]]:
    yield from (("conditioner", entry.type) for entry in recipe.conditioners.values())
    yield from (("injector", entry.type) for entry in recipe.injectors)
    if recipe.autoencoder is not None:
        yield "autoencoder", recipe.autoencoder.type
    yield "backbone", recipe.backbone.type
    yield "solver", recipe.sample.solver
    yield from (("mask_operation", entry.type) for entry in recipe.sample.mask_operations)


def check_latents(facts: Mapping[str, Any], denoiser: Denoiser, where: str) -> None:
    """Check that weights were trained in the latents that this network's autoencoder gives.

    Parameters
    ----------
    facts : mapping
        Of a weights file or checkpoint; ``autoencoder`` is the fingerprint of the autoencoder's weights.
    denoiser : Denoiser
        With its autoencoder's weights.
    where : str
        The file, for the message.

    Raises
    ------
    MsdmError
        They were trained in others.
    """
    trained, found = facts.get("autoencoder"), denoiser.autoencoder.fingerprint
    if trained is not None and trained != found:
        raise MsdmError(
            f"{where} was trained in the latents of an autoencoder with the SHA-256 {str(trained)[:12]}, and "
            f"what its recipe names as `autoencoder` has {found[:12]} here; put the former weights there"
        )


def check_needs(facts: Mapping[str, Any], where: str, host: Host | None = None) -> None:
    """Check that the plugins which weights name are there, in no older version than they were made with.

    Parameters
    ----------
    facts : mapping
        Of a weights file or checkpoint; ``plugins`` is the list of `needs`. Without it nothing is checked:
        what is missing shows when the recipe is built.
    where : str
        The file, for the message.
    host : Host or None
        None is the host of this process.

    Raises
    ------
    MsdmError
        One is missing, blocked, left out as broken, or of an older version; the message says what to install.
    """
    host = host or get_host()
    try:
        wanted = _NEEDS.validate_python(facts.get("plugins", []))
    except ValidationError:
        raise MsdmError(f"{where}: its list of plugins is damaged; get the file anew") from None
    for need in wanted:
        if host.blocks(need.kind, need.name):
            host.get(need.kind, need.name)  # says how to unblock it
        what = f"{where} needs {need.kind} {need.name!r} of {need.package} {need.version}"
        install = f'pip install "{need.package}>={need.version}"'
        rows = [row for row in host.listing() if _same(row.package, need.package)]
        if need.name not in host.names(need.kind):
            left_out = [row.state for row in rows if not row.usable]
            if left_out:
                raise MsdmError(f"{what}, which is left out ({left_out[0]}); see msdm-kit plugins")
            missing = "which has no such plugin here" if rows else "which is not installed"
            raise MsdmError(f"{what}, {missing}; {install}")
        origin = host.origin(need.kind, need.name)
        if not _same(origin.package, need.package):
            raise MsdmError(f"{what}, and here {origin.package} brings one of that name; {install}")
        if need.package != OURS and _older(origin.version, need.version):
            raise MsdmError(f"{what}, and {origin.version} is installed, which is older; {install}")


def _same(a: str, b: str) -> bool:
    """Whether two names are of one package, as pip compares them."""
    return re.sub(r"[-_.]+", "-", a).lower() == re.sub(r"[-_.]+", "-", b).lower()


def _older(a: str, b: str) -> bool:
    try:
        return Version(a) < Version(b)
    except InvalidVersion:
        return False
