"""`msdm-kit data stats`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import DataFolder, Workers

EXAMPLES = "\b\nExample:\n  msdm-kit data stats histology-nuclei --group assay --html histology.html"


def stats(
    folder: DataFolder,
    group: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Group the fields by a column of the manifest."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page with histograms and example fields."),
    ] = None,
    workers: Workers = None,
) -> None:
    """Counts, sizes, eccentricity and density of a data set's instances, by groups of fields."""
    from ..plugins.data import data_folder
    from ..plugins.statistics import statistics
    from .console import output, plain_table, printable, say
    from .data_progress import DataProgress

    console = output()
    root = data_folder(folder)
    with DataProgress(console, "measuring") as progress:
        found = statistics(root, group=group, workers=workers, on_progress=progress)
    rows = found.figures()
    names = tuple(rows[0])
    table = plain_table(*names, numbers=names[2:])
    for row in rows:
        table.add_row(*map(printable, row.values()))
    console.print(table)
    if html is not None:
        from ..plugins.statistics_page import save_page

        save_page(found, html)
        say(console, f"wrote {html}")
