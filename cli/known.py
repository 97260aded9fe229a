"""The options of `msdm-kit sample` that paint from a real image, or keep pixels of one."""

from typing import Annotated

import typer

Start = Annotated[
    str | None,
    typer.Option(
        metavar="noise|image",
        help="Paint from noise, or from the real image of the field that gives the masks, with noise on it.",
        show_default="the recipe's",
    ),
]
Strength = Annotated[
    float | None,
    typer.Option(
        metavar="S",
        min=0,
        max=1,
        help="How much noise --start image gets: 0 leaves the image as it is, 1 leaves nothing of it.",
        show_default="the recipe's",
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        metavar="WHAT",
        help="Pixels of the real image that stay: nothing, unchanged (where --mask-op changed no mask), "
        "inside:KIND or outside:KIND of a mask kind.",
        show_default="the recipe's",
    ),
]
KeepMargin = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        min=0,
        help="Around what --keep leaves to be painted, paint so far, too.",
        show_default="the recipe's",
    ),
]
