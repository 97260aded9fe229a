"""`msdm-kit sample`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import MsdmError
from .options import Device, Threads, set_threads

if TYPE_CHECKING:
    from rich.console import Console

    from ..plugins.painting import Summary

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit sample runs/first --data histology-nuclei --n 8 --out out/first\n"
    "  msdm-kit sample demo --data DIR --n 100 --out out/demo --steps 40 --guidance morphology=1.5"
)
_RECIPE = "the recipe's"


def sample(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run's folder, a weights file, or a model by name, such as demo."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Where the pairs go; a new or empty folder.", show_default=False),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="A data folder, or a data set by name, whose masks, colours and metadata are painted.",
        ),
    ] = "histology-nuclei",
    n: Annotated[int, typer.Option("--n", metavar="N", min=1, help="Pairs.")] = 8,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Solver steps.", show_default=_RECIPE)
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="ddim, ddpm ... (see msdm-kit plugins).", show_default=_RECIPE),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(
            metavar="HOW", help="leading, trailing or linspace: which time steps.", show_default=_RECIPE
        ),
    ] = None,
    guidance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="S|NAME=S",
            help="Guidance scale, or one per condition; 1 is none. Repeatable.",
            show_default=_RECIPE,
        ),
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option(metavar="E", help="Noise of ddim, 0 to 1; 0 is deterministic.", show_default=_RECIPE),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="K", help="Of the noise.")] = 0,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A value of the manifest's split column, or all.",
            show_default="what was not trained on, where there is any",
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(metavar="B", min=1, help="Fields at once on a GPU; a CPU takes one.")
    ] = 4,
    precision: Annotated[
        str | None, typer.Option(metavar="fp32|bf16", help="Of the network.", show_default=_RECIPE)
    ] = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Paint fields: image and mask pairs, in the layout of a data set.

    Every pair is traced in metadata.csv; the folder also gets a contact sheet and a summary.
    """
    settings: dict[str, Any] = {
        "steps": steps,
        "solver": solver,
        "spacing": spacing,
        "guidance": _guidance(guidance or []),
        "eta": eta,
        "precision": precision,
    }
    from ..plugins.painting import paint
    from .console import output, say
    from .progress import SamplingProgress

    set_threads(threads)
    console = output()
    say(console, f"loading {run}")
    with SamplingProgress(console) as progress:
        try:
            summary = paint(
                run,
                data,
                out,
                n=n,
                split=split,
                seed=seed,
                batch=batch,
                device=device,
                listener=progress,
                **settings,
            )
        except KeyboardInterrupt:
            if progress.pairs:
                say(console, f"{progress.pairs} of {progress.fields} pairs are in {out}, each whole")
            raise
    _print(console, summary)


def _guidance(texts: list[str]) -> float | dict[str, float] | None:
    scales: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            scales[name] = float(number)
        except ValueError:
            raise MsdmError(
                f"--guidance {text!r}: give a number, such as 1.5, or NAME=NUMBER for one condition"
            ) from None
        if equals and not name:
            raise MsdmError(f"--guidance {text!r}: no name before the =; write NAME=NUMBER")
    if "" in scales and len(texts) > 1:
        raise MsdmError("--guidance: give one number for all conditions, or NAME=NUMBER for each, not both")
    return scales.get("", scales or None)


def _print(console: "Console", summary: "Summary") -> None:
    from .console import plain_table, say

    figures = summary.figures
    table = plain_table("", "value", numbers=("value",))
    table.show_header = False
    table.add_row("pairs", str(summary.pairs))
    table.add_row("of fields in the training split", f"{summary.seen} of {summary.pairs}")
    rows = {
        "mask adherence, painted (Dice)": ("mask_adherence", ".3f"),
        "mask adherence, real": ("mask_adherence_real", ".3f"),
        "painted over real": ("mask_adherence_ratio", ".3f"),
        "colour error (levels of 255)": ("colour_error_levels", ".1f"),
    }
    for label, (key, form) in rows.items():
        table.add_row(label, format(figures[key], form) if key in figures else "not measured")
    console.print(table)
    say(console, f"pairs: {summary.folder}")
    say(console, f"contact sheet: {summary.sheet}")
