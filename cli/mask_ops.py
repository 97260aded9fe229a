"""The options of `msdm-kit sample` that change masks, and that take the looks from another data set."""

from typing import Annotated

import typer

MaskOp = Annotated[
    list[str] | None,
    typer.Option(
        "--mask-op",
        metavar="NAME:KEY=VALUE",
        help="Change the masks first, such as drop_instances:fraction=0.2 (see msdm-kit plugins), or a YAML "
        "file with mask_operations; none: leave them. Repeatable, in order.",
        show_default="the recipe's",
    ),
]
DonorsFrom = Annotated[
    str | None,
    typer.Option(
        "--donors",
        metavar="DIR",
        help="Another data set to take appearance and metadata from (or what --recombine names of them).",
    ),
]
