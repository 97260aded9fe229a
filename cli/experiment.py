"""`msdm-kit experiment`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import MsdmError

if TYPE_CHECKING:
    from rich.console import Console

    from ..plugins.experiment.experiment import Experiment

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit experiment quick --dry-run\n"
    "  msdm-kit experiment quick --out out/quick\n"
    "  msdm-kit experiment PLAN.yaml --out out/mine --devices cuda:0,cuda:1 --jobs 4"
)


def experiment(
    plan: Annotated[
        str, typer.Argument(metavar="PLAN", help="A plan by name (quick, full), or the path of a YAML file.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The experiment's folder: new, empty, or one to go on with.",
            show_default="required, but for --dry-run",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change the plan, such as generators.msdm.steps=1000. Repeatable.",
            show_default="none",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Processes.", show_default="one for each GPU, or else for each core"
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE,DEVICE",
            help="Given to the processes in turn: cpu, cuda:0 ...",
            show_default="all GPUs, or the CPU",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="CPU threads of each process. Results of a CPU depend on it.",
            show_default="1; with GPUs, a share of the cores",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the plan, the steps, which are done, what it costs; write nothing."
        ),
    ] = False,
) -> None:
    """Train generators, augment, train segmenters with and without, and compare them.

    A step that is done is not done again: the same command goes on after Ctrl-C or a mistake, and after a
    change of the plan does what depends on the change.
    """
    from ..plugins.experiment.experiment import prepare, run_experiment
    from ..plugins.experiment.plan_files import dump_plan
    from .console import output, say
    from .experiment_progress import ExperimentProgress

    console = output()
    if out is None and not dry_run:
        raise MsdmError("missing option --out: the experiment's folder, new or one to go on with")
    named = None if devices is None else [name.strip() for name in devices.split(",") if name.strip()]
    ready = prepare(
        plan,
        out,
        jobs=jobs,
        devices=named,
        threads=threads,
        overrides=set_ or (),
    )
    if dry_run:
        say(console, dump_plan(ready.protocol.plan))
        _print_steps(console, ready)
        say(console, "dry run: nothing was written")
        return
    assert out is not None
    again = ["msdm-kit", "experiment", plan, "--out", str(out)]
    for text in set_ or ():
        again += ["--set", text]
    for name, value in (("--jobs", jobs), ("--devices", devices), ("--threads", threads)):
        again += [] if value is None else [name, str(value)]
    try:
        with ExperimentProgress(console, ready) as progress:
            report = run_experiment(ready, progress)
    except KeyboardInterrupt:
        say(console, f"stopped; what is done is kept; go on with: {shlex.join(again)}")
        raise typer.Exit(130) from None
    say(console, (out / "table1.md").read_text(encoding="utf-8").rstrip())
    say(console, f"the report is {report}; every number is in {out / 'results.csv'}")


def _print_steps(console: "Console", ready: "Experiment") -> None:
    from .console import counted, plain_table, say
    from .progress import duration

    done = ready.done()
    table = plain_table("step", "needs", "estimate", "state", numbers=("estimate",))
    for step in ready.steps:
        needs = list(step.needs) if len(step.needs) < 4 else [*step.needs[:3], f"{len(step.needs) - 3} more"]
        state = f"done in {duration(done[step.name].seconds)}" if step.name in done else "to do"
        table.add_row(step.name, ", ".join(needs), duration(step.cost), state)
    console.print(table)
    left, wall = ready.estimate()
    gpu = not ready.devices[0].startswith("cpu")
    say(console, f"{len(ready.steps)} steps, {len(done)} of them done")
    say(
        console,
        f"estimate: {left / 60:.0f} {'GPU' if gpu else 'CPU'} minutes, {wall / 60:.0f} minutes with "
        f"{len(ready.devices)} process{'es' * (len(ready.devices) > 1)} "
        f"({', '.join(dict.fromkeys(ready.devices))}, {counted(ready.threads, 'CPU thread')} each)",
    )
    how = "counted operations of the networks over a usual speed"
    measured = "; set right by the steps that are done" if done else ""
    say(console, f"how: generators by {how}, segmenters by the pixels they are trained on{measured}")
