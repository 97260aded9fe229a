"""Whether the plugins that a recipe names exist and take the settings that it gives them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from ..core.autoencoder import Autoencoder
from ..core.backbone import Backbone
from ..core.conditioning import Conditioner, PluginConfig
from ..core.errors import MsdmError
from ..core.injection import Injector
from ..core.recipe import PluginEntry, Recipe
from .host import Host, get_host
from .loggers.base import Logger
from .mask_operations.base import MaskOperation
from .recipe_schema import one_line

_BASES: dict[str, type] = {
    "conditioner": Conditioner,
    "injector": Injector,
    "autoencoder": Autoencoder,
    "backbone": Backbone,
    "mask_operation": MaskOperation,
    "logger": Logger,
}


@contextmanager
def place(recipe: Recipe, path: str) -> Iterator[None]:
    """Put the recipe and the dotted path before the message of an MsdmError."""
    try:
        yield
    except MsdmError as error:
        raise MsdmError(f"recipe {recipe.name}: {path}: {error}") from error


def configure(recipe: Recipe, kind: str, path: str, entry: PluginEntry, host: Host) -> tuple[Any, Any]:
    """The class and the validated settings of a recipe's entry.

    Parameters
    ----------
    recipe : Recipe
    kind : {'conditioner', 'injector', 'autoencoder', 'backbone', 'mask_operation', 'logger'}
    path : str
        Where the entry stands, such as ``conditioners.morphology``.
    entry : PluginEntry
    host : Host

    Returns
    -------
    tuple of (type, PluginConfig)

    Raises
    ------
    MsdmError
        No such plugin, or settings that its `Config` refuses, with their path
        (``conditioners.morphology.mode``).
    """
    with place(recipe, f"{path}.type"):
        cls = host.load(kind, entry.type)
        if not (isinstance(cls, type) and issubclass(cls, _BASES[kind])):
            raise MsdmError(
                f"{kind.replace('_', ' ')} {entry.type!r} loads {cls!r}; its package must load a subclass of "
                f"{_BASES[kind].__name__}"
            )
    model: type[PluginConfig] = getattr(cls, "Config")  # noqa: B009
    try:
        return cls, model.model_validate(entry.settings)
    except ValidationError as error:
        raise MsdmError(f"recipe {recipe.name}: {one_line(error, model, path)}") from error


def check_plugins(recipe: Recipe, host: Host | None = None) -> None:
    """Check every plugin that a recipe names, and its settings, without building anything.

    Whether an injector takes a condition depends on the built condition: `build_denoiser` checks that.

    Parameters
    ----------
    recipe : Recipe
    host : Host or None
        None is the host of this process.

    Raises
    ------
    MsdmError
        The first fault, with its dotted path.
    """
    host = host or get_host()
    for name, conditioner in recipe.conditioners.items():
        configure(recipe, "conditioner", f"conditioners.{name}", conditioner, host)
    for i, injector in enumerate(recipe.injectors):
        configure(recipe, "injector", f"injectors.{i}", injector, host)
    if recipe.autoencoder is not None:
        configure(recipe, "autoencoder", "autoencoder", recipe.autoencoder, host)
    configure(recipe, "backbone", "backbone", recipe.backbone, host)
    for i, logger in enumerate(recipe.train.loggers):
        configure(recipe, "logger", f"train.loggers.{i}", logger, host)
    with place(recipe, "sample.solver"):
        host.get("solver", recipe.sample.solver)
    for i, operation in enumerate(recipe.sample.mask_operations):
        configure(recipe, "mask_operation", f"sample.mask_operations.{i}", operation, host)
