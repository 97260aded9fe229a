"""Solvers by name."""

from ..core.errors import MsdmError
from ..core.solvers import Solver
from .host import get_host


def load_solver(name: str) -> Solver:
    """A solver that a package registers.

    Raises
    ------
    MsdmError
        There is none of that name, or it is no `Solver`.
    """
    loaded = get_host().load("solver", name)
    if not isinstance(loaded, Solver):
        raise MsdmError(
            f"solver {name!r} is a {type(loaded).__name__}; its package must decorate it with "
            f"msdm_kit.core.solvers.solver"
        )
    return loaded
