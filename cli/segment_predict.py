"""`msdm-kit segment predict`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import DataFolder, Device, OnlySplit, Threads, set_threads

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit segment predict models/nuclei histology-nuclei out/found --split test_mixed\n"
    "  msdm-kit segment predict models/nuclei DIR out/both --also models/cells\n"
    "  msdm-kit segment predict cpsam:weights=cpsam_v2.safetensors DIR out/sam --kind cell"
)


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="The folder of a trained segmenter, or NAME:KEY=VALUE of one with its own weights.",
            show_default=False,
        ),
    ],
    folder: DataFolder,
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The data folder to write, new or empty.", show_default=False),
    ],
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL", help="A trained segmenter of another kind. Repeatable.", show_default="none"
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="What MODEL finds.", show_default="what it was trained on"),
    ] = None,
    split: OnlySplit = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Find instances in images: a data set with the same images and the masks that were found.

    DIR needs no masks. msdm-kit evaluate segmentation scores OUT. OUT appears when it is complete.
    """
    from ..plugins.data import data_folder
    from ..plugins.new_folder import check_new
    from ..plugins.segmenters.folder import open_segmenter
    from ..plugins.segmenters.jobs import predict as find
    from ..plugins.segmenters.opening import open_images
    from .console import counted, output, say
    from .data_progress import DataProgress

    set_threads(threads)
    root = data_folder(folder)
    check_new(out, root)
    console = output()
    opened = [open_segmenter(model, kind, device=device)]
    opened += [open_segmenter(text, device=device) for text in also or []]
    fields = open_images(root, split=split)
    with DataProgress(console, "segmenting") as progress:
        done = find(
            [segmenter for segmenter, _ in opened],
            fields,
            out,
            hashes=[weights for _, weights in opened],
            on_progress=progress,
        )
    counts = ", ".join(f"{n} of kind {name}" for name, n in sorted(done.instances.items()))
    say(console, f"{counted(done.fields, 'field')} with {counts}, in {done.folder}")
