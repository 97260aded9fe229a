"""`msdm-kit segment train`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import DataFolder, Device, Threads, set_threads

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit segment train histology-nuclei models/nuclei --kind nucleus\n"
    "  msdm-kit segment train DIR models/cells --kind cell --with out/painted\n"
    "  msdm-kit segment train DIR models/long --kind cell --segmenter scratch-small:epochs=400,crops=32"
)


def train(
    folder: DataFolder,
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The model's folder, new or empty.", show_default=False),
    ],
    kind: Annotated[
        str,
        typer.Option(
            metavar="KIND", help="Of the masks to train on, such as cell or nucleus.", show_default=False
        ),
    ],
    segmenter: Annotated[
        str,
        typer.Option(
            metavar="NAME:KEY=VALUE", help="A segmenter (see msdm-kit plugins) and its settings, by commas."
        ),
    ] = "scratch-small",
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="DIR",
            help="Train on every field of this data set too, such as painted ones. Repeatable.",
            show_default="none",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Train on this split.", show_default="train, or all without splits"
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Measure the loss on this split, too; it changes no weight.",
            show_default="val, where there is one",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="K", help="Of the first weights and of the crops.")] = 0,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Train a segmenter on the masks of one kind.

    OUT appears when training is done: weights.safetensors, and segmenter.json with settings and losses.
    """
    from ..plugins.choice import read_choice
    from ..plugins.data import data_folder
    from ..plugins.new_folder import check_new
    from ..plugins.segmenters.folder import read_trained
    from ..plugins.segmenters.jobs import new_segmenter, train_segmenter
    from ..plugins.segmenters.opening import open_training
    from .console import output, say
    from .data_progress import DataProgress

    set_threads(threads)
    check_new(out)
    entry = read_choice("segmenter", segmenter)
    new_segmenter(entry, kind, device=device)
    console = output()
    fields = open_training(
        data_folder(folder),
        kind,
        split=split,
        validation=validation,
        more=[data_folder(name) for name in more or []],
    )
    for note in fields.notes:
        say(console, note)
    with DataProgress(console, "training", "epochs") as progress:
        train_segmenter(
            entry,
            kind,
            fields.train,
            fields.validation,
            out,
            seed=seed,
            device=device,
            on_progress=progress,
        )
    facts = read_trained(out)
    say(
        console,
        f"{facts.train_instances} instances of kind {kind}, loss {facts.train_loss[0]:.3f} at first and "
        f"{facts.train_loss[-1]:.3f} at last, in {out}",
    )
