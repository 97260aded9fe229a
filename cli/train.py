"""`msdm-kit train`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Device, Threads, set_threads

if TYPE_CHECKING:
    from ..core.recipe import Recipe

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit train quickstart --data histology-nuclei --out runs/first\n"
    "  msdm-kit train msdm --data DIR --out runs/msdm --set data.crop=256 --dry-run"
)


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="A recipe by name (see msdm-kit recipes), or the path of a YAML file."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="RUN", help="The run's folder, new or empty.", show_default=False)
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="A data folder, or a data set by name.",
        ),
    ] = "histology-nuclei",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change the recipe, such as train.lr=2e-4. Repeatable.",
            show_default="none",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check all, print the recipe, parameters, memory and steps, and write nothing.",
        ),
    ] = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Train a recipe on a data set.

    Ctrl-C ends after the step in progress and saves; --resume goes on exactly there.
    """
    from ..plugins.check import check_plugins
    from ..plugins.recipe_files import load_recipe

    settings = load_recipe(recipe, set_ or ())
    check_plugins(settings)
    from ..plugins.device import pick_device

    set_threads(threads)
    pick_device(device)
    if dry_run:
        _dry_run(settings, data, out, resume)
        return
    again = ["msdm-kit", "train", recipe, "--data", data, "--out", str(out)]
    for text in set_ or ():
        again += ["--set", text]
    if device is not None:
        again += ["--device", device]
    if threads is not None:
        again += ["--threads", str(threads)]
    _train(settings, data, out, resume, device, shlex.join([*again, "--resume"]))


def _train(recipe: "Recipe", data: str, out: Path, resume: bool, device: str | None, again: str) -> None:
    from ..plugins.training import Interrupted
    from ..plugins.training import train as train_recipe
    from .console import output, say
    from .progress import TrainingProgress

    console = output()
    try:
        with TrainingProgress(console, recipe.train) as progress:
            folder = train_recipe(recipe, data, out, resume=resume, device=device, listener=progress)
    except Interrupted as stopped:
        say(console, f"stopped after step {stopped.step}; go on with: {again}")
        raise typer.Exit(130) from None
    painted = shlex.join(
        ["msdm-kit", "sample", str(folder), "--data", data, "--n", "8", "--out", f"{folder}-samples"]
    )
    say(console, f"the run is in {folder}; paint with: {painted}")


def _dry_run(recipe: "Recipe", data: str, out: Path, resume: bool) -> None:
    from ..plugins.estimate import LEFT_OUT, plan_run
    from ..plugins.recipe_files import dump_recipe
    from .console import gigabytes, output, plain_table, say

    plan = plan_run(recipe, data, out, resume=resume)
    console = output()
    say(console, dump_recipe(recipe))
    table = plain_table("", "value", numbers=("value",))
    table.show_header = False
    for name, count in plan.parts.items():
        table.add_row(f"parameters, {name}", f"{count:,}")
    table.add_row("parameters", f"{plan.parameters:,}")
    memory = plan.memory
    pieces = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "Adam's moments": memory.moments,
        "averaged weights": memory.average,
        f"activations, batch {recipe.train.batch} at {recipe.data.crop} px": memory.activations,
    }
    for name, size in pieces.items():
        table.add_row(f"memory, {name}", "unknown" if size is None else gigabytes(size))
    table.add_row("memory, estimate", gigabytes(memory.total))
    table.add_row("training fields", f"{plan.fields:,}")
    table.add_row("steps per epoch", f"{plan.steps_per_epoch:.1f}")
    table.add_row("steps", f"{plan.steps:,}")
    table.add_row("images", f"{plan.images:,}")
    console.print(table)
    say(console, LEFT_OUT)
    for note in plan.notes:
        say(console, f"note: {note}")
    for warning in plan.warnings:
        say(console, f"warning: {warning}", style="yellow")
    say(console, "dry run: nothing was written")
