"""`msdm-kit data derive-cells`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Workers

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit data derive-cells data/nuclei data/with-cells\n"
    "  msdm-kit data derive-cells data/nuclei data/with-cells --distance 6"
)


def derive_cells(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A data folder with nuclei and no cells.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The data folder to write, new or empty.", show_default=False),
    ],
    distance: Annotated[
        float | None,
        typer.Option(
            metavar="PIXELS",
            help="How far cells reach beyond their nuclei.",
            show_default="0.30 x the median diameter of a slide's nuclei, 2 to 12",
        ),
    ] = None,
    workers: Workers = None,
) -> None:
    """Grow cells from nuclei, without overlap, for a set that has none.

    They are rims round nuclei, not cells: the column cells_derived of OUT says so.
    """
    from ..plugins.data import data_folder
    from ..plugins.derive_cells import derive_cells as derive
    from .console import counted, output, say
    from .data_progress import DataProgress

    console = output()
    with DataProgress(console, "deriving cells") as progress:
        done = derive(data_folder(folder), out, distance=distance, workers=workers, on_progress=progress)
    low, high = done.distances
    reach = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    fields = counted(done.fields, "field")
    say(console, f"{fields} with {done.cells} cells, {reach} pixels beyond their nuclei, in {done.folder}")
