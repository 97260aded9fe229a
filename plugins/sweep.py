"""The solver sweep: how far each solver is from the end of the ODE, against the evaluations it takes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import MsdmError
from ..core.files import write_text
from ..core.processes import processes
from ..core.recipe import Spacing
from ..core.sample import Image
from ..core.solvers import Solver
from .data import data_folder
from .host import get_host
from .mask_operations.apply import Operation, recipe_operations
from .new_folder import check_new
from .pipeline import Pipeline
from .sampling.events import Stepped
from .solver import load_solver
from .sweep_pictures import save_curves, save_images
from .targets import plan_targets

COUNTS = (5, 8, 10, 12, 16, 20, 30, 40)
"""Evaluations that every solver is given."""
END: tuple[str, int, Spacing] = ("unipc", 150, "logsnr")
"""What stands for the exact end of the ODE."""
BASELINE: tuple[str, int, tuple[Spacing, ...]] = ("ddim", 40, ("leading", "trailing"))
"""What is to be reached: the better of the two."""
_PAIRS: dict[Spacing, tuple[Spacing, ...]] = {
    "leading": ("leading", "trailing"),
    "trailing": ("trailing", "leading"),
    "linspace": ("linspace", "trailing"),
    "logsnr": ("logsnr", "karras"),
    "karras": ("karras", "logsnr"),
}


@dataclass(frozen=True)
class Trial:
    """A solver with a number of steps, and so of evaluations, and a spacing."""

    solver: str
    spacing: Spacing
    steps: int
    evaluations: int


@dataclass(frozen=True)
class Point:
    """A trial and what came of it.

    Attributes
    ----------
    trial : Trial
    error : float
        Relative RMSE against the end of the ODE, norm(x - end) / norm(end), mean over fields.
    seconds : float
        Per field.
    """

    trial: Trial
    error: float
    seconds: float


@dataclass(frozen=True)
class SweepPlanned:
    """What will be tried: `trials` trials on `fields` fields, `evaluations` of the network in all."""

    fields: int
    trials: int
    evaluations: int
    device: str


SweepListener = Callable[[SweepPlanned | Stepped | Point], None]


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes
    ----------
    folder : Path
        With ``sweep.csv``, ``sweep.png`` and ``sweep-images.png``.
    points : tuple of Point
    level : float
        The error of DDIM-40.
    cheapest : Point
        With the fewest evaluations among those whose error is at most `level`; of equals the nearest.
    """

    folder: Path
    points: tuple[Point, ...]
    level: float
    cheapest: Point


def sweep(
    run: str | Path,
    data: str | Path = "histology-nuclei",
    out: str | Path = "sweep",
    *,
    n: int = 2,
    split: str | None = None,
    seed: int = 0,
    operations: Sequence[Operation] | None = None,
    device: str | None = None,
    counts: Sequence[int] = COUNTS,
    listener: SweepListener = lambda event: None,
    **settings: Any,
) -> Sweep:
    """Try every deterministic solver on a few fields of a run.

    Parameters
    ----------
    run, data, out, split, seed, operations, device
        As `paint` takes them.
    n : int
        Fields.
    counts : sequence of int
        Evaluations. Heun takes as many steps as go into each.
    listener : callable
        Called with every event.
    **settings
        As `Pipeline.sample` takes them. `solver` and `spacing` restrict the sweep, beside the baseline; there
        are neither `steps` nor `eta`.

    Returns
    -------
    Sweep

    Raises
    ------
    MsdmError
        Anything is wrong with the run, the data, the folder or the settings; nothing is written then.
    """
    if processes().count > 1:
        raise MsdmError("a solver sweep works in one process; start it without torchrun")
    if n < 1:
        raise MsdmError(f"cannot sweep over {n} fields; give --n 1 or more")
    for name in ("steps", "eta"):
        if settings.pop(name, None) is not None:
            raise MsdmError(
                f"a solver sweep takes no --{name}: it tries many step counts, without noise; leave it out"
            )
    # what a walk from noise takes is what is compared, whatever the recipe starts from
    settings |= {"start": "noise", "keep": "nothing"}
    folder = Path(out)
    check_new(folder)
    source = data_folder(str(data))
    pipeline = Pipeline.load(run, device=device)
    only, spacing = settings.pop("solver", None), settings.pop("spacing", None)
    pipeline.settings(solver=only, spacing=spacing, **settings)
    if only is not None and not load_solver(only).deterministic:
        raise MsdmError(
            f"solver {only!r} is noisy: it has no end to be compared with; choose another --solver"
        )
    operations = recipe_operations(pipeline.recipe) if operations is None else operations
    targets = plan_targets(pipeline, source, n=n, split=split, seed=seed, operations=operations)
    fields = [targets.build(output) for output in targets.outputs]
    timesteps = len(pipeline.denoiser.schedule)
    end = _trial(END[0], END[2], min(END[1], timesteps))
    trials = plan(timesteps, counts, only, spacing)
    evaluations = end.evaluations + sum(t.evaluations for t in trials)
    listener(SweepPlanned(len(fields), len(trials), n * evaluations, str(pipeline.device)))

    def paint(trial: Trial) -> list[Image]:
        tried = {"solver": trial.solver, "steps": trial.steps, "spacing": trial.spacing, "eta": 0.0}
        painted = pipeline.sample(
            fields, seed=seed, batch=1, on_step=lambda count: listener(Stepped(count)), **settings, **tried
        )
        return [synthetic.image for synthetic in painted]

    ends = paint(end)
    points: list[Point] = []
    pictures: dict[Trial, Image] = {}
    for trial in trials:
        began = time.perf_counter()
        images = paint(trial)
        seconds = (time.perf_counter() - began) / n
        error = float(np.mean([_relative(a, b) for a, b in zip(images, ends, strict=True)]))
        points.append(Point(trial, error, seconds))
        pictures[trial] = images[0]
        write_text(folder / "sweep.csv", _csv(points))
        listener(points[-1])
    level = min(p.error for p in points if p.trial in _baseline(timesteps))
    reached = [p for p in points if p.error <= level]
    cheapest = min(reached, key=lambda p: (p.trial.evaluations, p.error))
    title = f"{pipeline.recipe.name}, {pipeline.step} steps"
    save_curves(folder / "sweep.png", points, level, title)
    save_images(folder / "sweep-images.png", pictures, ends[0], title)
    return Sweep(folder, tuple(points), level, cheapest)


def plan(timesteps: int, counts: Sequence[int], solver: str | None, spacing: Spacing | None) -> list[Trial]:
    """The baseline's trials, and those of each deterministic solver, with its own spacing and its kin."""
    trials = _baseline(timesteps)
    for name in get_host().names("solver"):
        loaded = load_solver(name)
        if not loaded.deterministic or name != (solver or name):
            continue
        for kin in [spacing] if spacing else _PAIRS[loaded.spacing]:
            for count in counts:
                steps = _steps(loaded, min(count, timesteps))
                if steps:
                    trials.append(_trial(name, kin, steps))
    return list(dict.fromkeys(trials))


def _baseline(timesteps: int) -> list[Trial]:
    name, steps, spacings = BASELINE
    return [_trial(name, spacing, min(steps, timesteps)) for spacing in spacings]


def _trial(name: str, spacing: Spacing, steps: int) -> Trial:
    return Trial(name, spacing, steps, load_solver(name).evaluations(steps))


def _steps(solver: Solver, count: int) -> int:
    """The most steps that take at most `count` evaluations; 0 where there are none."""
    return max((k for k in range(1, count + 1) if solver.evaluations(k) <= count), default=0)


def _relative(image: Image, end: Image) -> float:
    return float(np.linalg.norm(image - end) / np.linalg.norm(end))


def _csv(points: Sequence[Point]) -> str:
    lines = ["solver,spacing,steps,evaluations,error,seconds"]
    for p in points:
        t = p.trial
        lines.append(f"{t.solver},{t.spacing},{t.steps},{t.evaluations},{p.error:.6f},{p.seconds:.3f}")
    return "\n".join(lines) + "\n"
