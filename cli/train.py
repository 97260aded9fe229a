"""`msdm-kit train`."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import MsdmError
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
    data: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="A data folder, or a data set by name.",
        ),
    ] = "histology-nuclei",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="The run's folder, new or empty.", show_default="required, but for --profile"
        ),
    ] = None,
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
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Train a few steps, print where their time goes, and write nothing."),
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
    from ..core.processes import processes
    from ..plugins.device import pick_device

    set_threads(threads)
    pick_device(device)
    if profile:
        if dry_run or resume:
            other = "--dry-run" if dry_run else "--resume"
            raise MsdmError(f"--profile trains from the start and writes nothing; leave {other} out")
        if processes().count > 1:
            raise MsdmError("--profile looks at one process; start it without torchrun")
        _profile(settings, data, device)
        return
    if out is None:
        raise MsdmError("missing option --out: the run's folder, new or empty")
    if dry_run:
        _dry_run(settings, data, out, resume, device)
        return
    again = [*_program(), "train", recipe, "--data", data, "--out", str(out)]
    for text in set_ or ():
        again += ["--set", text]
    if device is not None:
        again += ["--device", device]
    if threads is not None:
        again += ["--threads", str(threads)]
    _train(settings, data, out, resume, device, shlex.join([*again, "--resume"]))


def _program() -> list[str]:
    """The words that start this program as it was started."""
    count = os.environ.get("LOCAL_WORLD_SIZE")
    if count is None:
        return ["msdm-kit"]
    where = [] if count == os.environ["WORLD_SIZE"] else ["..."]
    return ["torchrun", *where, "--nproc-per-node", count, "-m", "msdm_kit"]


def _train(recipe: "Recipe", data: str, out: Path, resume: bool, device: str | None, again: str) -> None:
    from ..core.processes import processes
    from ..plugins.report.train_report import write_train_report
    from ..plugins.training import train as train_recipe
    from ..plugins.training_events import Interrupted
    from .console import output, say
    from .progress import TrainingProgress

    console = output()
    try:
        with TrainingProgress(console, recipe.train) as progress:
            folder = train_recipe(recipe, data, out, resume=resume, device=device, listener=progress)
    except Interrupted as stopped:
        say(console, f"stopped after step {stopped.step}; go on with: {again}")
        raise typer.Exit(130) from None
    if not processes().leads:
        return
    painted = shlex.join(
        ["msdm-kit", "sample", str(folder), "--data", data, "--n", "8", "--out", f"{folder}-samples"]
    )
    say(console, f"report: {write_train_report(folder)}")
    say(console, f"the run is in {folder}; paint with: {painted}")


def _dry_run(recipe: "Recipe", data: str, out: Path, resume: bool, device: str | None) -> None:
    from ..plugins.estimate import LEFT_OUT
    from ..plugins.plan import plan_run
    from ..plugins.recipe_files import dump_recipe
    from .console import gigabytes, output, plain_table, say

    plan = plan_run(recipe, data, out, resume=resume, device=device)
    console = output()
    say(console, dump_recipe(recipe))
    table = plain_table("", "value", numbers=("value",))
    table.show_header = False
    for name, count in plan.parts.items():
        table.add_row(f"parameters, {name}", f"{count:,}")
    table.add_row("parameters", f"{plan.parameters:,}")
    memory = plan.memory
    for name, size in memory.pieces.items():
        table.add_row(f"memory, {name}", "unknown" if size is None else gigabytes(size))
    table.add_row("memory, estimate of the peak", gigabytes(memory.total))
    table.add_row("memory, free now", gigabytes(plan.free))
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


def _profile(recipe: "Recipe", data: str, device: str | None) -> None:
    from ..plugins.profile import profile_training
    from .console import gigabytes, output, plain_table, say

    found = profile_training(recipe, data, device=device)
    console = output()
    for note in found.notes:
        say(console, f"note: {note}")
    table = plain_table("part of a step", "ms", "share", numbers=("ms", "share"))
    for name, seconds in (found.parts | {"step": found.seconds}).items():
        table.add_row(name, f"{1e3 * seconds:.1f}", f"{100 * seconds / found.seconds:.1f} %")
    console.print(table)
    crops = plain_table("making one crop, on one core", "ms", numbers=("ms",))
    for name, seconds in found.crop.items():
        crops.add_row(name, f"{1e3 * seconds:.1f}")
    console.print(crops)
    checkpointing = "on" if found.checkpointing else "off"
    say(
        console,
        f"on {found.device}: {found.images_per_second:.2f} images/s, {found.images} images per step, "
        f"{found.workers} loader processes, checkpointing {checkpointing}",
    )
    if found.memory is not None:
        say(console, f"peak memory: {gigabytes(found.memory)}")
    if found.flops is not None:
        reached, most = found.flops / found.seconds / 1e12, found.peak_flops / 1e12
        say(
            console,
            f"model FLOP utilisation: {reached / most:.0%}, {reached:.3g} of the {most:.3g} TFLOP/s that a "
            f"large matrix product reaches here",
        )
    for line in found.advice:
        say(console, f"advice: {line}")
    say(console, "profile: nothing was written")
