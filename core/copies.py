"""Copies of modules that share what they hold."""

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def shared_copy(module: Module, instead: Mapping[int, Tensor] | None = None) -> Module:
    """A copy whose submodules are its own and whose parameters and buffers are those of `module`.

    Parameters
    ----------
    module : nn.Module
        It is not changed.
    instead : mapping id(Tensor) -> Tensor, optional
        What the copy holds in the place of some of them, wherever they stand.

    Returns
    -------
    nn.Module

    Examples
    --------
    >>> layer = nn.Linear(2, 3)
    >>> twin = shared_copy(layer, {id(layer.bias): nn.Parameter(layer.bias.double())})
    >>> twin is layer, twin.weight is layer.weight, twin.bias.dtype
    (False, True, torch.float64)
    """
    # everything that is in the memo stands for itself in the copy
    memo: dict[int, Tensor] = {id(t): t for t in (*module.parameters(), *module.buffers())}
    memo.update(instead or {})
    return copy.deepcopy(module, memo)
