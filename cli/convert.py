"""`msdm-kit convert`."""

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import MsdmError

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit convert sdm ema_0.9999_100000.pt runs/sdm --image-size 256\n"
    "  msdm-kit convert sdm model.pt runs/msdm --schedule cosine --conditioner morphology=hv_maps "
    "--conditioner colour=rgb_statistics"
)

WEIGHTS_EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit convert weights bert-tiny/pytorch_model.bin bert-tiny/model.safetensors\n"
    "  msdm-kit convert weights cpsam_v2 cpsam_v2.safetensors"
)
GROUP = "Make runs and safetensors of weights that other software wrote."

convert = typer.Typer(rich_markup_mode=None, no_args_is_help=False, help=GROUP)


@convert.callback(help=GROUP)
def _group() -> None:
    """Of the commands."""


@convert.command("sdm", epilog=EXAMPLES)
def sdm(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="model*.pt, ema_*.pt or .safetensors of SDM.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The run's folder, new or empty.")],
    conditioner: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TYPE",
            help="What the map is made of, in the order of its channels. Repeatable.",
            show_default="morphology=label_map",
        ),
    ] = None,
    masks: Annotated[
        str, typer.Option(metavar="KIND,KIND", help="Mask kinds, in the order of their channels.")
    ] = "cell,nucleus",
    edges: Annotated[
        bool, typer.Option("--edges/--no-edges", help="Whether a label map has a channel of instance edges.")
    ] = True,
    image_size: Annotated[
        int, typer.Option(metavar="PX", min=8, help="Side of the images that it was trained on.")
    ] = 256,
    head_channels: Annotated[
        int, typer.Option(metavar="N", min=1, help="Width of an attention head; a checkpoint does not say.")
    ] = 64,
    schedule: Annotated[
        str, typer.Option(metavar="NAME", help="Noise schedule: linear or cosine.")
    ] = "linear",
    timesteps: Annotated[
        int, typer.Option(metavar="N", min=1, help="Time steps that it was trained with.")
    ] = 1000,
    drop: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            min=0,
            max=1,
            help="How often training dropped the map; with 0, no guidance.",
            show_default="0.2 for a label map, otherwise 0",
        ),
    ] = None,
) -> None:
    """Make a run of an SDM checkpoint, to be painted with.

    SDM is the semantic diffusion model of Wang et al. 2022, arXiv 2207.00050. What no option says is read off
    the checkpoint. Only tensors are read from it: nothing in it is executed.
    """
    chosen = _pairs(conditioner or [])
    from ..plugins.convert_run import convert_run
    from .console import output, say

    run = convert_run(
        file,
        out,
        conditioners=chosen or None,
        masks=[kind.strip() for kind in masks.split(",")],
        edges=edges,
        image_size=image_size,
        head_channels=head_channels,
        schedule=schedule,
        timesteps=timesteps,
        drop=drop,
    )
    console = output()
    say(
        console,
        f"taken on trust, as no checkpoint says it: {head_channels} channels per attention head, {schedule} "
        f"schedule of {timesteps} steps, images of {image_size} px",
    )
    say(console, f"the run is in {run.folder}; paint with: msdm-kit sample {run.folder} --data DIR --out DIR")


@convert.command("weights", epilog=WEIGHTS_EXAMPLES)
def weights(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Weights that torch.save wrote: *.bin, *.pt or the like.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new file *.safetensors.")],
) -> None:
    """Make safetensors of a PyTorch file of weights.

    Only tensors are read from it: nothing in it is executed. Other commands read no such file.
    """
    from ..plugins.convert_weights import convert_weights
    from .console import output, say

    tensors = convert_weights(file, out)
    say(output(), f"{out} holds {len(tensors)} tensors")


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, _, kind = text.partition("=")
        if not name or not kind or name in pairs:
            raise MsdmError(
                f"--conditioner {text!r}: write NAME=TYPE, such as morphology=hv_maps, each name once"
            )
        pairs[name] = kind
    return pairs
