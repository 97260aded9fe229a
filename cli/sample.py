"""`msdm-kit sample`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import MsdmError
from .known import Keep, KeepMargin, Start, Strength
from .mask_ops import DonorsFrom, MaskOp
from .options import Device, Overlap, Threads, Window, set_threads
from .quality import MaxColourError, MinAdherence, MinAgreement, Segmenters, Tries, add_rows
from .recombine import (
    AppearanceFrom,
    Colour,
    MetadataFrom,
    Recombine,
    Select,
    SeparateDonors,
    SetMetadata,
    Versions,
    recombination,
)

if TYPE_CHECKING:
    from rich.console import Console

    from ..plugins.sampling.products import Summary

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit sample runs/first --data histology-nuclei --n 8 --out out/first\n"
    "  msdm-kit sample demo --data DIR --n 100 --out out/demo --steps 20 --guidance morphology=1.5\n"
    "  msdm-kit sample runs/first --select it.csv --versions 8 --recombine appearance,metadata --out out/it\n"
    "  msdm-kit sample runs/first --out out/sweep --solver-sweep"
)
_RECIPE, _SOLVERS = "the recipe's", "the solver's own"


def sample(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run's folder, a weights file, or a model by name, such as demo."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Where the results go; a new or empty folder, or that of this job.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="A data folder, or a data set by name, whose masks, colours and metadata are painted.",
        ),
    ] = "histology-nuclei",
    n: Annotated[
        int | None,
        typer.Option(
            "--n", metavar="N", min=1, help="Pairs.", show_default="8, or a selection's; of a sweep: 2"
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Solver steps.", show_default=f"{_RECIPE}, or {_SOLVERS}"),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="unipc, dpmpp_2m, heun, ddim, ddpm ...", show_default=_RECIPE),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="Which time steps: logsnr, karras, leading, trailing or linspace.",
            show_default=f"{_RECIPE}, or {_SOLVERS}",
        ),
    ] = None,
    guidance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="S|NAME=S",
            help="Guidance scale, or one per condition; 1 is none. Repeatable.",
            show_default=_RECIPE,
        ),
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option(metavar="E", help="Noise of ddim, 0 to 1; 0 is deterministic.", show_default=_RECIPE),
    ] = None,
    select: Select = None,
    versions: Versions = None,
    recombine: Recombine = None,
    separate_donors: SeparateDonors = False,
    appearance_from: AppearanceFrom = None,
    metadata_from: MetadataFrom = None,
    colour: Colour = None,
    set_metadata: SetMetadata = None,
    donors: DonorsFrom = None,
    mask_op: MaskOp = None,
    start: Start = None,
    strength: Strength = None,
    keep: Keep = None,
    keep_margin: KeepMargin = None,
    window: Window = None,
    overlap: Overlap = None,
    min_adherence: MinAdherence = None,
    segmenter: Segmenters = None,
    min_agreement: MinAgreement = None,
    max_colour_error: MaxColourError = None,
    tries: Tries = 1,
    seed: Annotated[
        int, typer.Option(metavar="K", help="Of the noise, matches, drawn colours and mask operations.")
    ] = 0,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A value of the manifest's split column, or all.",
            show_default="what was not trained on, where there is any",
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(metavar="B", min=1, help="Fields at once on a GPU; a CPU takes one.")
    ] = 4,
    precision: Annotated[
        str | None, typer.Option(metavar="fp32|bf16", help="Of the network.", show_default=_RECIPE)
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB",
            min=0,
            help="Most memory of prepared conditions; the results are the same.",
            show_default=f"{_RECIPE}, or half of what is free",
        ),
    ] = None,
    solver_sweep: Annotated[
        bool,
        typer.Option(
            "--solver-sweep",
            help="Paint no pairs: compare all solvers on a few fields; --solver and --spacing restrict them.",
        ),
    ] = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Paint fields: image and mask pairs, in the layout of a data set.

    Every pair is traced in metadata.csv; the folder also gets a contact sheet and a summary.
    """
    settings: dict[str, Any] = {
        "steps": steps,
        "solver": solver,
        "spacing": spacing,
        "guidance": guidance_scales(guidance or []),
        "eta": eta,
        "precision": precision,
        "start": start,
        "strength": strength,
        "keep": keep,
        "keep_margin": keep_margin,
        "window": window,
        "overlap": overlap,
        "memory": None if memory is None else int(memory * 2**30),
    }
    from ..plugins.filtering import Thresholds
    from ..plugins.mask_operations.apply import load_operations
    from ..plugins.painting import paint
    from ..plugins.sampling.pair_folder import rejected_folder
    from ..plugins.segmenters.folder import open_segmenter
    from ..plugins.sweep import sweep
    from .console import output, say
    from .progress import SamplingProgress, SweepProgress
    from .sweep import print_sweep

    set_threads(threads)
    console = output()
    say(console, f"loading {run}")
    where: dict[str, Any] = {"split": split, "seed": seed, "device": device}
    options = recombination(
        data,
        recombine,
        separate_donors,
        appearance_from,
        metadata_from,
        colour or [],
        set_metadata or [],
    )
    operations = load_operations(mask_op) if mask_op else None
    thresholds = Thresholds(min_adherence, max_colour_error, min_agreement)
    if solver_sweep:
        filtered = thresholds.limits or segmenter or tries > 1
        known = start is not None or strength is not None or keep is not None or keep_margin is not None
        if select or versions or options.active or donors or filtered or known:
            raise MsdmError(
                "a solver sweep paints no pairs; leave out --select, --versions, --start, --strength, "
                "--keep, --keep-margin, what recombines and what filters"
            )
        with SweepProgress(console) as trying:
            try:
                found = sweep(
                    run, data, out, n=n or 2, operations=operations, listener=trying, **where, **settings
                )
            except KeyboardInterrupt:
                if trying.tried:
                    say(console, f"{trying.tried} of {trying.trials} combinations are in {out / 'sweep.csv'}")
                raise
        print_sweep(console, found)
        return
    judges = [open_segmenter(model, device=device)[0] for model in segmenter or []]
    with SamplingProgress(console) as progress:
        try:
            summary = paint(
                run,
                data,
                out,
                n=n,
                select=select,
                versions=versions,
                recombination=options,
                operations=operations,
                donors=donors,
                thresholds=thresholds,
                segmenters=judges,
                tries=tries,
                batch=batch,
                listener=progress,
                **where,
                **settings,
            )
        except KeyboardInterrupt:
            if progress.pairs:
                pairs = f"{progress.pairs} of {progress.fields} pairs"
                say(console, f"{pairs} are in {out}, each whole; the same command goes on")
            if progress.rejected:
                say(console, f"{progress.rejected} rejected ones are in {rejected_folder(out)}, each whole")
            raise
    _print(console, summary)


def guidance_scales(texts: list[str]) -> float | dict[str, float] | None:
    """What --guidance says: one scale, or one per condition; None where it is not given.

    Raises
    ------
    MsdmError
        It is of another form.
    """
    scales: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            scales[name] = float(number)
        except ValueError:
            raise MsdmError(
                f"--guidance {text!r}: give a number, such as 1.5, or NAME=NUMBER for one condition"
            ) from None
        if equals and not name:
            raise MsdmError(f"--guidance {text!r}: no name before the =; write NAME=NUMBER")
    if "" in scales and len(texts) > 1:
        raise MsdmError("--guidance: give one number for all conditions, or NAME=NUMBER for each, not both")
    return scales.get("", scales or None)


def _print(console: "Console", summary: "Summary") -> None:
    from .console import plain_table, say

    figures = summary.figures
    table = plain_table("", "value", numbers=("value",))
    table.show_header = False
    table.add_row("pairs", str(summary.pairs))
    if summary.acceptance is not None:
        add_rows(table, summary.acceptance)
    table.add_row("of fields in the training split", f"{summary.seen} of {summary.pairs}")
    rows = {
        "mask adherence, painted (Dice)": ("mask_adherence", ".3f"),
        "mask adherence, real": ("mask_adherence_real", ".3f"),
        "painted over real": ("mask_adherence_ratio", ".3f"),
        "colour error (levels of 255)": ("colour_error_levels", ".1f"),
    }
    if "segmenter_agreement" in figures:
        rows["agreement of the segmenter's masks (F1)"] = ("segmenter_agreement", ".3f")
    for label, (key, form) in rows.items():
        table.add_row(label, format(figures[key], form) if key in figures else "not measured")
    console.print(table)
    if summary.sheet is None:
        say(console, f"no pair was kept: {summary.folder} holds no data set")
    else:
        say(console, f"pairs: {summary.folder}")
        say(console, f"contact sheet: {summary.sheet}")
    say(console, f"report: {summary.report}")
    if summary.rejected is not None:
        say(console, f"rejected: {summary.rejected}")
