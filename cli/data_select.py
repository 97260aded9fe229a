"""`msdm-kit data select`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import DataFolder, OnlySplit, Workers

if TYPE_CHECKING:
    from rich.console import Console

    from ..plugins.selection import Selection

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit data select DIR --where \"mean_cell_eccentricity > 0.85 and assay == 'HER2'\" --out it.csv\n"
    '  msdm-kit data select DIR --where "fraction(nucleus.eccentricity > 0.9) > 0.3" --split train\n'
    "  msdm-kit data select DIR --sort count_nucleus --limit 20 --out dense.csv"
)
VALUES = 8
"""Values of a column of texts that are listed at most."""


def select(
    folder: DataFolder,
    where: Annotated[
        str | None,
        typer.Option(metavar="EXPR", help="Take the fields for which this is true.", show_default="all"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Save the selection, for msdm-kit sample --select."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Take so many of them, the first after sorting.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="PROPERTY",
            help="Largest first; with a minus before it, smallest first.",
            show_default="the manifest's order",
        ),
    ] = None,
    split: OnlySplit = None,
    workers: Workers = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Print every name that an expression may use, and end.")
    ] = False,
) -> None:
    """Choose fields by their properties, such as the mean eccentricity of their cells.

    Prints how many match, and how what EXPR names is distributed among them and among all.
    """
    from ..plugins.data import data_folder
    from ..plugins.selection import select as choose
    from ..plugins.selection_file import check_target, save_selection
    from .console import output, say
    from .data_progress import DataProgress

    console = output()
    root = data_folder(folder)
    if list_:
        return _list(console, root)
    if out is not None:
        check_target(out)
    with DataProgress(console, "measuring") as progress:
        found = choose(
            root, where, split=split, sort=sort, limit=limit, workers=workers, on_progress=progress
        )
    _print(console, found)
    if out is not None:
        beside = save_selection(found, out)
        say(console, f"wrote {out} ({len(found.chosen)} ids) and {beside}")
        say(console, f"paint with: msdm-kit sample RUN --data {folder} --select {out} --out DIR")


def _list(console: "Console", root: Path) -> None:
    from ..plugins.properties import INSTANCE_PROPERTIES
    from ..plugins.selection import vocabulary_of
    from .console import say

    words = vocabulary_of(root)
    for name in words.properties:
        say(console, name)
    for kind in words.kinds:
        for name in INSTANCE_PROPERTIES:
            say(console, f"{kind}.{name} (within a function)")
        if kind in words.classes:
            names = sorted(words.classes[kind])
            more = ", ..." if len(names) > VALUES else ""
            say(console, f"{kind}.class (within a function; texts: {', '.join(names[:VALUES])}{more})")
    for name, (numbers, _) in words.columns.items():
        shown = name if name.isidentifier() and name not in words.properties else f"column({name!r})"
        say(console, f"{shown} ({'numbers' if numbers else 'texts'} of the manifest)")


def _print(console: "Console", found: "Selection") -> None:
    from ..plugins.selection import distribution
    from .console import plain_table, say

    for note in found.notes:
        say(console, f"note: {note}")
    among = f" of split {found.split}" if found.split not in (None, "all") else ""
    say(console, f"{found.matching} of {len(found.ids)} fields{among} match")
    if len(found.chosen) < found.matching:
        say(console, f"the first {len(found.chosen)} of them are taken")
    figures = ("fields", "missing", "mean", "std", "min", "median", "max")
    table = plain_table("property", "of", *figures, numbers=figures)
    for name, values in found.values.items():
        chosen = [values[i] for i in found.chosen]
        if any(isinstance(value, str) for value in values):
            if name != "id":
                _texts(console, name, values, chosen)
            continue
        for what, some in (("selected", chosen), ("all", values)):
            d = distribution(some)
            numbers = (f"{x:.4g}" for x in (d.mean, d.std, d.min, d.median, d.max))
            table.add_row(name, what, str(d.fields), str(d.missing), *numbers)
    if table.row_count:
        console.print(table)


def _texts(console: "Console", name: str, values: list[float | str], chosen: list[float | str]) -> None:
    from .console import say

    everywhere, here = Counter(values), Counter(chosen)
    ranked = sorted(everywhere, key=lambda value: (-here[value], -everywhere[value], str(value)))
    shown = [f"{value or '(empty)'} {here[value]}/{everywhere[value]}" for value in ranked[:VALUES]]
    more = f", and {len(ranked) - VALUES} more" if len(ranked) > VALUES else ""
    say(console, f"{name}, selected/all: {', '.join(shown)}{more}")
