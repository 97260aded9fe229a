"""Pictures of a solver sweep, by matplotlib, without a screen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.files import atomic_write
from ..core.images import to_uint8
from ..core.sample import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .sweep import Point, Trial


def save_curves(path: Path, points: Sequence["Point"], level: float, title: str) -> None:
    """Error against evaluations, a line per solver and spacing, and DDIM-40's level.

    Parameters
    ----------
    path : Path
        A PNG; a file that is there is replaced.
    points : sequence of Point
    level : float
    title : str
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    solvers = list(dict.fromkeys(p.trial.solver for p in points))
    spacings = list(dict.fromkeys(p.trial.spacing for p in points))
    for solver, spacing in dict.fromkeys((p.trial.solver, p.trial.spacing) for p in points):
        line = [p for p in points if (p.trial.solver, p.trial.spacing) == (solver, spacing)]
        line.sort(key=lambda p: p.trial.evaluations)
        axes.plot(
            [p.trial.evaluations for p in line],
            [p.error for p in line],
            color=f"C{solvers.index(solver)}",
            linestyle=("-", "--", ":", "-.")[spacings.index(spacing) % 4],
            marker=".",
            label=f"{solver}, {spacing}",
        )
    axes.axhline(level, color="0.5", linewidth=1)
    axes.annotate(
        "DDIM-40", (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="0.4"
    )
    axes.set_yscale("log")
    axes.set_xlabel("evaluations of the network")
    axes.set_ylabel("relative RMSE against the end of the ODE")
    axes.set_title(title)
    axes.legend(fontsize="small", ncols=2)
    _save(figure, path, dpi=150)


def save_images(path: Path, pictures: Mapping["Trial", Image], end: Image, title: str) -> None:
    """One field as every trial paints it: a row per solver and spacing, a column per number of evaluations.

    Parameters
    ----------
    path : Path
        A PNG; a file that is there is replaced.
    pictures : mapping Trial -> ndarray (3, H, W) float32 in [-1, 1]
    end : ndarray (3, H, W)
        The end of the ODE, in a row of its own.
    title : str
    """
    from matplotlib.figure import Figure

    rows = list(dict.fromkeys((t.solver, t.spacing) for t in pictures))
    ordered = sorted(pictures, key=lambda trial: trial.evaluations)
    columns = [[t for t in ordered if (t.solver, t.spacing) == row] for row in rows]
    width = max(len(trials) for trials in columns)
    figure = Figure(figsize=(1.7 * width, 2.0 * (len(rows) + 1)), layout="constrained")
    grid = figure.subplots(len(rows) + 1, width, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    grid[0, 0].imshow(to_uint8(end))
    grid[0, 0].set_title(f"end of the ODE\n{title}", loc="left", fontsize="small")
    for line, trials in zip(grid[1:], columns, strict=True):
        for axes, trial in zip(line, trials, strict=False):
            axes.imshow(to_uint8(pictures[trial]))
            axes.set_title(
                f"{trial.solver}, {trial.spacing}\n{trial.evaluations} evaluations", fontsize="small"
            )
    _save(figure, path, dpi=120)


def _save(figure: "Figure", path: Path, dpi: int) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)
