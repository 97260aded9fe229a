"""What a plugin hook returns: a name, a summary, and a way to load the thing itself."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

API_LEVEL = 1
"""What hooks, base classes and their promises are now; a package states the level it was written for as
``MSDM_KIT_API`` in the module of its hooks. It rises when a plugin that worked would no longer."""
OLDEST_API = 1
"""The lowest level that still works."""


@dataclass(frozen=True)
class Plugin:
    """A plugin as it is listed, before anything heavy is imported.

    Attributes
    ----------
    name : str
        What a recipe calls it; unique within its kind.
    summary : str
        One line.
    load : callable
        Without arguments. Returns the class or function; for a recipe or a data set, its `pathlib.Path`.
    config : callable or None
        Without arguments. Returns the model of the settings, where that is cheaper to import than the plugin
        itself; None: the `Config` of what `load` returns.
    source : str
        The paper or code that it follows, if any.
    """

    name: str
    summary: str
    load: Callable[[], Any]
    config: Callable[[], Any] | None = None
    source: str = ""


def lazy(target: str) -> Callable[[], Any]:
    """A loader that imports only when it is called.

    Parameters
    ----------
    target : str
        ``package.module:attribute``.

    Returns
    -------
    callable
        Without arguments; returns the attribute.

    Examples
    --------
    >>> lazy("math:sqrt")()(9.0)
    3.0
    """
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise ValueError(f"lazy({target!r}): write 'package.module:attribute'")
    return partial(_import, module, attribute)


def _import(module: str, attribute: str) -> Any:
    return getattr(importlib.import_module(module), attribute)
