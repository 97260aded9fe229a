"""What `msdm-kit sample --solver-sweep` prints."""

from rich.console import Console

from ..plugins.sweep import Sweep
from .console import plain_table, say


def print_sweep(console: Console, found: Sweep) -> None:
    """The table of a sweep, and its cheapest solver."""
    numbers = ("steps", "evaluations", "error", "seconds")
    table = plain_table("solver", "spacing", *numbers, "reaches", numbers=numbers)
    for p in found.points:
        t, reached = p.trial, "DDIM-40" if p.error <= found.level else ""
        row = (str(t.steps), str(t.evaluations), f"{p.error:.4f}", f"{p.seconds:.2f}")
        table.add_row(t.solver, t.spacing, *row, reached)
    console.print(table)
    say(console, "error: relative RMSE against the end of the ODE; seconds: per field")
    p, t = found.cheapest, found.cheapest.trial
    say(
        console,
        f"cheapest that reaches DDIM-40's {found.level:.4f}: --solver {t.solver} --spacing {t.spacing} "
        f"--steps {t.steps}, {t.evaluations} evaluations, error {p.error:.4f}, {p.seconds:.2f} s",
    )
    for name in ("sweep.csv", "sweep.png", "sweep-images.png"):
        say(console, f"wrote {found.folder / name}")
