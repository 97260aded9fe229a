"""`msdm-kit evaluate segmentation`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import OnlySplit, Workers

if TYPE_CHECKING:
    from rich.console import Console

    from ..plugins.segmentation.results import Evaluation, Summary

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit evaluate segmentation out/predicted data/test --out out/scores\n"
    "  msdm-kit evaluate segmentation out/predicted data/p1 data/p2 data/p3 --group assay"
)


def segmentation(
    predicted: Annotated[
        str, typer.Argument(metavar="PRED", help="A data folder with predicted masks.", show_default=False)
    ],
    truth: Annotated[
        list[str],
        typer.Argument(
            metavar="TRUTH", help="Data folders, or data sets by name: one per annotator.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write every field's scores, a summary and a report; new or empty."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A metric, such as cell_f1. Repeatable.",
            show_default="all whose masks are there",
        ),
    ] = None,
    split: OnlySplit = None,
    group: Annotated[
        str | None, typer.Option(metavar="COLUMN,...", help="Means by columns of TRUTH's manifest.")
    ] = None,
    distance: Annotated[
        str, typer.Option(metavar="LENGTH", help="Centres at most so far apart can be one: 6px, 3um.")
    ] = "6px",
    pixel_size: Annotated[
        float | None,
        typer.Option(
            metavar="UM", help="Micrometres per pixel, for a distance in um.",
            show_default="TRUTH's column pixel_size_um",
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="KIND", help="Score what lies in TRUTH's mask of this kind: all that was annotated.",
            show_default="all",
        ),
    ] = None,
    workers: Workers = None,
) -> None:  # fmt: skip
    """Score predicted masks against those of one or more annotators, field by field.

    Fields are matched by their ids. Several annotators: scores are means over them, and their agreement with
    each other is printed beside.
    """
    from ..core.processes import processes
    from ..plugins.data import data_folder
    from ..plugins.metrics.distance import read_distance, read_pixel_size
    from ..plugins.new_folder import check_new
    from ..plugins.segmentation.evaluation import evaluate_segmentation
    from .console import output, say
    from .data_progress import DataProgress

    console = output()
    folders = [data_folder(name) for name in (predicted, *truth)]
    if out is not None:
        for folder in folders:
            check_new(out, folder)
    columns = [name.strip() for name in (group or "").split(",") if name.strip()]
    with DataProgress(console, "scoring") as progress:
        found = evaluate_segmentation(
            folders[0],
            folders[1:],
            metrics=metric or None,
            split=split,
            group=columns,
            distance=read_distance(distance),
            pixel_size=None if pixel_size is None else read_pixel_size(str(pixel_size), "--pixel-size"),
            region=region,
            workers=workers,
            on_progress=progress,
        )
    if not processes().leads:
        return
    _print(console, found)
    if out is not None:
        from ..plugins.segmentation.files import save_evaluation

        save_evaluation(found, out)
        say(console, f"wrote {out / 'report.html'}, with fields.csv and summary.json beside it")


def _print(console: "Console", found: "Evaluation") -> None:
    from .console import plain_table, printable, say

    fields = "1 field" if len(found.fields) == 1 else f"{len(found.fields)} fields"
    names = ", ".join(map(printable, found.annotators))
    say(console, f"{fields} against {names}; centres at most {found.distance} apart")
    several = len(found.annotators) > 1
    numbers = ["mean", "sd", "95 % interval", "pooled", "fields", *(["annotators"] if several else [])]
    table = plain_table("metric", *numbers, numbers=tuple(numbers))
    for name in found.metrics:
        of = found.summary(name)
        row = [_figure(of.mean), _figure(of.sd), _interval(of), _figure(of.pooled), str(of.fields)]
        if several:
            pairs = found.agreement_summary(name)
            row.append(f"{_figure(pairs.mean)} ± {_figure(pairs.sd)}")
        table.add_row(name, *row)
    console.print(table)
    if found.groups:
        shown = [name for name in found.metrics if name in found.main_metrics]
        table = plain_table("group", "fields", *shown, numbers=("fields", *shown))
        for group in found.groups:
            count = sum(field.group == group for field in found.fields)
            means = [_figure(found.summary(name, group).mean) for name in shown]
            table.add_row(printable(group), str(count), *means)
        console.print()
        console.print(table)


def _figure(value: float) -> str:
    return "-" if value != value else f"{value:.4f}"


def _interval(of: "Summary") -> str:
    return "-" if of.low != of.low else f"{of.low:.4f} to {of.high:.4f}"
