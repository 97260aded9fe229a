"""`msdm-kit data export`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import DataFolder, OnlySplit, Workers

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit data export out/it training/ --format cellpose --mask-kind cell\n"
    "  msdm-kit data export DIR fold/ --format pannuke --mask-kind nucleus --split train --select it.csv"
)


def export(
    folder: DataFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write, new or empty.")],
    format: Annotated[
        str, typer.Option(metavar="NAME", help="An exporter (see msdm-kit plugins), such as cellpose.")
    ],
    mask_kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND", help="Export masks of this kind only.", show_default="all that the format holds"
        ),
    ] = None,
    split: OnlySplit = None,
    select: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Fields of this selection only (see msdm-kit data select)."),
    ] = None,
    workers: Workers = None,
) -> None:
    """Write a data set, real or painted, in the format of another tool.

    OUT appears when it is complete.
    """
    from ..plugins.data import data_folder
    from ..plugins.exporting import Planned, export_data
    from ..plugins.importing import Transferred
    from .console import counted, output, say
    from .data_progress import DataProgress

    console = output()
    root = data_folder(folder)
    with DataProgress(console, "exporting") as progress:

        def listen(event: object) -> None:
            if isinstance(event, Planned):
                progress(0, event.fields)
            elif isinstance(event, Transferred):
                progress(event.done, event.total)

        done = export_data(
            root,
            out,
            format,
            mask_kind=mask_kind,
            split=split,
            select=select,
            workers=workers,
            listener=listen,
        )
    for note in done.notes:
        say(console, f"note: {note}")
    counts = ", ".join(f"{n} of kind {kind}" for kind, n in sorted(done.instances.items()))
    classes = f", of {done.classes} classes" if done.classes else ""
    fields = counted(done.fields, "field")
    say(console, f"{fields} with {counts}{classes}, in {done.folder} for {done.format}")
