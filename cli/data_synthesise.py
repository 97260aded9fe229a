"""`msdm-kit data synthesise`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import MsdmError
from .options import Workers

if TYPE_CHECKING:
    from ..plugins.synthesis import Synthesised

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit data synthesise DIR data/layouts --n 20 --size 512x512 --density 500 --eccentricity 0.85\n"
    "  msdm-kit sample RUN --data data/layouts --donors DIR --out out/layouts"
)


def synthesise(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A data folder, or a data set by name, that gives shapes.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The data folder, new or empty.")],
    n: Annotated[int, typer.Option("--n", metavar="N", min=1, help="Fields.")] = 8,
    size: Annotated[
        str, typer.Option(metavar="HEIGHTxWIDTH", help="Of a field, in pixels, such as 512x512.")
    ] = "256x256",
    density: Annotated[
        float | None,
        typer.Option(
            metavar="D",
            help="Cells (nuclei, where there are no cells) per megapixel.",
            show_default="that of DIR",
        ),
    ] = None,
    eccentricity: Annotated[
        float | None,
        typer.Option(metavar="E", help="Their mean eccentricity, 0 to 1.", show_default="that of the shapes"),
    ] = None,
    select: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Shapes of these fields only (see msdm-kit data select)."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Shapes of this split only.", show_default="every split"),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="K", help="Of shapes and places.")] = 0,
    workers: Workers = None,
) -> None:
    """Make masks that nobody annotated: shapes of a data set, packed anew without overlap.

    OUT has no images; msdm-kit sample paints it with --donors, or with colours that are given.
    """
    from ..plugins.data import data_folder
    from ..plugins.selection_file import load_selection
    from ..plugins.synthesis import Laid, Shapes
    from ..plugins.synthesis import synthesise as make
    from .console import output, say
    from .data_progress import DataProgress

    console = output()
    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size, re.ASCII)
    if not sides:
        raise MsdmError(f"--size {size!r}: write HEIGHTxWIDTH in pixels, such as 512x512")
    if select is not None and split is not None:
        raise MsdmError("--select names the fields, and --split others; give one of them")
    root = data_folder(folder)
    ids, notes = load_selection(select, root) if select is not None else (None, [])
    for note in notes:
        say(console, f"note: {note}")
    with DataProgress(console, "laying out") as progress:

        def listen(event: object) -> None:
            if isinstance(event, Shapes):
                say(
                    console,
                    f"{event.shapes} shapes of {folder}: mean eccentricity {event.eccentricity:.3f}, "
                    f"{event.density:.0f} per megapixel in its fields",
                )
                progress(0, n)
            elif isinstance(event, Laid):
                progress(event.done, event.total)

        done = make(
            root,
            out,
            n=n,
            size=(int(sides[1]), int(sides[2])),
            density=density,
            eccentricity=eccentricity,
            split=split,
            ids=ids,
            seed=seed,
            workers=workers,
            listener=listen,
        )
    for line in _lines(done):
        say(console, line)
    say(console, f"paint with: msdm-kit sample RUN --data {out} --donors {folder} --out DIR")


def _lines(done: "Synthesised") -> list[str]:
    import numpy as np

    from .console import counted

    fields = len(done.eccentricity)
    lines = []
    if done.short:
        lines.append(
            f"note: {done.asked - done.placed} of {done.asked} did not fit, in {len(done.short)} of {fields} "
            f"fields; ask for a lower density"
        )
    lines.append(f"{counted(fields, 'field')} with {done.placed} of kind {done.kind}, in {done.folder}")
    lines.append(
        f"measured: {done.density:.0f} per megapixel, mean eccentricity {np.mean(done.eccentricity):.3f}, "
        f"mean area {np.mean(done.area):.0f} pixels"
    )
    return lines
