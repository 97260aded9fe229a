"""`msdm-kit paint-field`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import MsdmError
from .console import counted
from .options import Device, Overlap, Threads, set_threads
from .progress import ProgressDisplay
from .recombine import Colour, SetMetadata

if TYPE_CHECKING:
    from ..plugins import field_painting

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit paint-field demo nuclei.tif out/large.ome.tif --data histology-nuclei --look ID\n"
    "  msdm-kit paint-field RUN cells.geojson out/slide.ome.tif --size 20000x30000 --pixel-size 0.5"
)


def paint_field(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run's folder, a weights file, or a model by name, such as demo."
        ),
    ],
    masks: Annotated[
        Path,
        typer.Argument(metavar="MASKS", help="A label TIFF of any size, or GeoJSON.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The image, NAME.ome.tif; it must be new.", show_default=False),
    ],
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Of MASKS.", show_default="the only kind of the model, or nucleus"),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=FILE", help="Masks of another kind. Repeatable."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH",
            help="Of a field of GeoJSON, in pixels.",
            show_default="up to the last outline",
        ),
    ] = None,
    data: Annotated[
        str, typer.Option(metavar="DIR", help="A data folder, or a data set by name, that --look is in.")
    ] = "histology-nuclei",
    look: Annotated[
        str | None, typer.Option(metavar="ID", help="Take colours and metadata from this field of --data.")
    ] = None,
    colour: Colour = None,
    set_metadata: SetMetadata = None,
    window: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            min=1,
            help="Side of the windows.",
            show_default="the recipe's, or the crop of training",
        ),
    ] = None,
    overlap: Overlap = None,
    pixel_size: Annotated[
        float | None,
        typer.Option(
            metavar="UM", help="Micrometres per pixel.", show_default="what the masks' OME-TIFF says"
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Solver steps.", show_default="the recipe's")
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="unipc, dpmpp_2m, heun, ddim ...", show_default="the recipe's"),
    ] = None,
    guidance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="S|NAME=S",
            help="Guidance scale, or one per condition; 1 is none. Repeatable.",
            show_default="the recipe's",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="K", help="Of the noise and of drawn colours.")] = 0,
    batch: Annotated[
        int, typer.Option(metavar="B", min=1, help="Windows at once on a GPU; a CPU takes one.")
    ] = 4,
    precision: Annotated[
        str | None,
        typer.Option(metavar="fp32|bf16", help="Of the network.", show_default="the recipe's"),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB",
            min=0,
            help="Most memory of prepared conditions; the results are the same.",
            show_default="the recipe's, or half of what is free",
        ),
    ] = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Paint one field of any size by overlapping windows: a tiled OME-TIFF, and its masks.

    Memory does not depend on the field's size: it lies in scratch files beside OUT.
    """
    from ..plugins import field_painting
    from .console import output, say
    from .recombine import recombination
    from .sample import guidance_scales

    set_threads(threads)
    sources = [(kind or "", masks)]
    for text in also or []:
        other, _, file = text.partition("=")
        if not other or not file:
            raise MsdmError(f"--also {text!r}: write KIND=FILE, such as cell=cells.tif")
        sources.append((other, Path(file)))
    given = recombination(data, None, False, None, None, colour or [], set_metadata or [])
    settings: dict[str, Any] = {
        "window": window,
        "overlap": overlap,
        "steps": steps,
        "solver": solver,
        "guidance": guidance_scales(guidance or []),
        "precision": precision,
        "memory": None if memory is None else int(memory * 2**30),
    }
    console = output()
    say(console, f"loading {run}")
    with FieldProgress(console) as progress:
        painted = field_painting.paint_field(
            run,
            sources,
            out,
            size=_size(size),
            data=data,
            look=look,
            colours=given.colours,
            metadata=given.metadata,
            pixel_size=pixel_size,
            seed=seed,
            batch=batch,
            device=device,
            listener=progress,
            **settings,
        )
    for what, path in painted.masks.items():
        say(console, f"{what} masks: {path}")
    say(console, f"record: {painted.record}")
    say(console, f"image: {painted.image}")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, x, width = text.partition("x")
    if not (x and height.isascii() and height.isdigit() and width.isascii() and width.isdigit()):
        raise MsdmError(f"--size {text!r}: write HEIGHTxWIDTH in pixels, such as 20000x30000")
    return int(height), int(width)


class FieldProgress(ProgressDisplay):
    """A listener of `paint_field`; a context manager."""

    _done = 0

    def __enter__(self) -> "FieldProgress":
        super().__enter__()
        return self

    def __call__(
        self, event: "field_painting.FieldPlanned | field_painting.WindowsDone | field_painting.Writing"
    ) -> None:
        from ..plugins import field_painting
        from .console import say

        if isinstance(event, field_painting.FieldPlanned):
            height, width = event.size
            instances = ", ".join(counted(n, f"{kind} instance") for kind, n in event.instances.items())
            say(
                self.console,
                f"painting {height} x {width} pixels with {instances} by {counted(event.windows, 'window')} "
                f"in {counted(event.steps, 'step')} each, on {event.device}",
            )
            self._begin("painting", event.windows * event.evaluations)
        elif isinstance(event, field_painting.WindowsDone):
            self._done += event.windows
            self._pace.reached(self._done)
            last = self._done == self._pace.total
            self._show(self._done, self._times, f"window {self._done}/{self._pace.total}", now=last)
        else:
            say(self.console, f"writing {event.path}")
