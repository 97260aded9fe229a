"""Options that several commands share."""

import os
from typing import Annotated

import typer

Device = Annotated[
    str | None,
    typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1 ...", show_default="a GPU where there is one"),
]
Threads = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="CPU threads of PyTorch.", show_default="PyTorch's")
]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Processes.", show_default="1 for few fields, all cores for many"),
]
DataFolder = Annotated[
    str, typer.Argument(metavar="DIR", help="A data folder, or a data set by name.", show_default=False)
]
OnlySplit = Annotated[
    str | None, typer.Option(metavar="NAME", help="Fields of this split only.", show_default="every split")
]

Window = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        min=1,
        help="Paint larger fields by windows of this side, averaged at every step.",
        show_default="the recipe's",
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS", min=0, help="By which windows overlap.", show_default="a quarter of the window"
    ),
]


def set_threads(threads: int | None) -> None:
    """Let PyTorch compute with so many CPU threads; None leaves its own number.

    The one thread that torchrun sets for each of several processes becomes their share of the cores.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if threads is None and processes > 1 and os.environ.get("OMP_NUM_THREADS") == "1":
        from ..plugins.device import cores

        threads = max(1, cores() // processes)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
