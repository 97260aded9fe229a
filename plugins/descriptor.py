"""What a plugin hook returns: a name, a summary, and a way to load the thing itself."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any


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
    """

    name: str
    summary: str
    load: Callable[[], Any]


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
