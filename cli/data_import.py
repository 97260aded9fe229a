"""`msdm-kit data import`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Workers

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit data import PanNuke data/pannuke --column organ=indication\n"
    "  msdm-kit data import exports/ data/lab --images slides/tiles --metadata assays.csv"
)


def import_(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A file or folder of another tool.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The data folder, new or empty.")],
    format: Annotated[
        str, typer.Option(metavar="NAME", help="An importer (see msdm-kit plugins); auto recognises it.")
    ] = "auto",
    metadata: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="More columns, by id: one row for every field."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="Rename a column. Repeatable.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="The split of all these fields, such as train.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the pictures are, if not with the annotations."),
    ] = None,
    kind: Annotated[
        str, typer.Option(metavar="KIND", help="Mask kind of instances whose kind the format does not say.")
    ] = "nucleus",
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read Cellpose's _seg.npy, which are pickles.")
    ] = False,
    workers: Workers = None,
) -> None:
    """Make a data set of the files of another tool.

    The format is recognised. OUT appears when it is complete.
    """
    from ..plugins.importing import import_data
    from .console import counted, output, say
    from .data_progress import DataProgress

    console = output()
    with DataProgress(console, "importing") as progress:

        def listen(event: object) -> None:
            from ..plugins.importing import Detected, Transferred

            if isinstance(event, Detected):
                say(console, f"{source}: {counted(event.fields, 'field')} of format {event.format}")
                progress(0, event.fields)
            elif isinstance(event, Transferred):
                progress(event.done, event.total)

        done = import_data(
            source,
            out,
            format=format,
            metadata=metadata,
            columns=column or [],
            split=split,
            images=images,
            kind=kind,
            allow_pickle=allow_pickle,
            workers=workers,
            listener=listen,
        )
    for note in done.notes:
        say(console, f"note: {note}")
    counts = ", ".join(f"{n} of kind {name}" for name, (_, n) in sorted(done.instances.items()))
    classes = f", of {len(done.classes)} classes" if done.classes else ""
    say(console, f"{counted(done.fields, 'field')} with {counts}{classes}, in {done.folder}")
