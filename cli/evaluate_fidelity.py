"""`msdm-kit evaluate fidelity`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Device, Threads, Workers, set_threads
from .progress import Pace, ProgressDisplay, duration

if TYPE_CHECKING:
    from rich.console import Console

    from ..plugins.embedders.base import Embedder
    from ..plugins.embedders.cache import EmbeddingCache
    from ..plugins.fidelity.fidelity import Fidelity

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit evaluate fidelity histology-nuclei out/first --group assay --out out/first-fidelity\n"
    "  msdm-kit evaluate fidelity DIR out/pairs --group assay,indication --embedder h-optimus-0 --out out/it"
)


def fidelity(
    real: Annotated[
        str, typer.Argument(metavar="REAL", help="A data folder, or a data set by name.", show_default=False)
    ],
    synthetic: Annotated[
        str, typer.Argument(metavar="SYNTH", help="A data folder of painted fields.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Where report and tables go; new or empty.", show_default=False),
    ],
    group: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN,...", help="Group fields by columns of both manifests.", show_default="one group"
        ),
    ] = None,
    embedder: Annotated[
        str,
        typer.Option(
            metavar="NAME:KEY=VALUE", help="What makes features: descriptors, h-optimus-0, timm:model=..."
        ),
    ] = "descriptors",
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Compare with these real fields only; copies are looked for in all.",
            show_default="every split",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Look for copies in this data set: what the generator was trained on.",
            show_default="REAL",
        ),
    ] = None,
    distance: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Between groups: wasserstein, sliced_wasserstein, kid ..."
        ),
    ] = "wasserstein",
    projection: Annotated[
        str, typer.Option(metavar="NAME", help="Of the picture: umap, pca, or auto: UMAP where installed.")
    ] = "auto",
    permutations: Annotated[
        int, typer.Option(metavar="N", min=1, help="Relabellings of the permutation test at most.")
    ] = 999,
    repeats: Annotated[
        int, typer.Option(metavar="N", min=2, help="Random halves for the real-against-real floor.")
    ] = 20,
    seed: Annotated[
        int, typer.Option(metavar="K", min=0, help="Of halves, relabellings and the picture.")
    ] = 0,
    batch: Annotated[int, typer.Option(metavar="B", min=1, help="Tiles at once in a network.")] = 16,
    workers: Workers = None,
    device: Device = None,
    threads: Threads = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither read nor keep features of earlier runs.")
    ] = False,
    allow_random: Annotated[
        bool, typer.Option("--allow-random", help="Let the random embedder pass, which is no metric.")
    ] = False,
) -> None:  # fmt: skip
    """Compare painted fields with real ones: distances of groups, realism, variety, copies, adherence.

    Every figure stands beside the one of real fields against real fields.
    """
    from ..core.errors import MsdmError
    from ..core.processes import processes
    from ..plugins.choice import choose, read_choice
    from ..plugins.data import data_folder
    from ..plugins.device import pick_device
    from ..plugins.fidelity.data import open_sets
    from ..plugins.fidelity.fidelity import fidelity as measure
    from ..plugins.fidelity.files import REPORT, save_fidelity
    from ..plugins.fidelity.projection import check_method
    from ..plugins.new_folder import check_new
    from .console import output, say

    console = output()
    set_threads(threads)
    method = check_method(projection)
    columns = [name.strip() for name in (group or "").split(",") if name.strip()]
    if group is not None and not columns:
        raise MsdmError(f"--group {group!r} names no column; write COLUMN or COLUMN,COLUMN")
    folders = [data_folder(name) for name in (real, synthetic, *([reference] if reference else []))]
    for folder in folders:
        check_new(out, folder)
    name, cls, config = choose("embedder", read_choice("embedder", embedder), f"--embedder {embedder!r}")
    if not cls.is_metric and not allow_random:
        raise MsdmError(
            f"the embedder {name} is random: its distances mean nothing, and it is for tests only; take "
            f"another, or give --allow-random"
        )
    chosen: Embedder = cls(config, pick_device(device))
    with FidelityProgress(console) as progress:
        sets = open_sets(
            folders[0], folders[1], split=split, reference=folders[2] if reference else None,
            on_progress=progress,
        )  # fmt: skip
        found = measure(
            sets.real, sets.synthetic, chosen, group=columns,
            reference=None if sets.reference is sets.real else sets.reference,
            distance=distance, cache=None if no_cache else _cache(chosen), batch=batch, workers=workers,
            repeats=repeats, permutations=permutations, seed=seed, allow_random=allow_random,
            on_progress=progress,
        )  # fmt: skip
        if not processes().leads:
            return
        settings = {
            "real": real, "split": split, "synthetic": synthetic, "reference": reference, "group": columns,
            "embedder": {"type": name, **config.model_dump(mode="json")}, "distance": distance,
            "projection": projection, "permutations": permutations, "repeats": repeats, "seed": seed,
        }  # fmt: skip
        progress("writing the report", 0, 1)
        save_fidelity(
            found, out, reference=sets.reference, synthetic=sets.synthetic, projection=method, seed=seed,
            settings=settings,
        )  # fmt: skip
    _print(console, found)
    say(
        console, f"wrote {out / REPORT}, with fidelity.json, matrix.csv, metrics.csv and fields.csv beside it"
    )


class FidelityProgress(ProgressDisplay):
    """Called with (stage, done, total); a context manager.

    Parameters
    ----------
    console : Console
    """

    def __init__(self, console: "Console") -> None:
        super().__init__(console)
        self._stage: tuple[str, int] | None = None
        self._pace = Pace(0, 1)

    def __enter__(self) -> "FidelityProgress":
        super().__enter__()
        return self

    def __call__(self, stage: str, done: int, total: int) -> None:
        if (stage, total) != self._stage:
            self._stage = (stage, total)
            self._pace = Pace(total, 200)
            self._last = time.monotonic()  # nothing to say of what takes no time
            self._begin(stage, total)
        self._pace.reached(done)
        self._show(done, f"remaining {duration(self._pace.remaining)}", f"{stage} {done}/{total}")


def _cache(embedder: "Embedder") -> "EmbeddingCache | None":
    """The features of earlier runs; None for a user without a home."""
    from ..core.kernels.cpp import cache_folder
    from ..plugins.embedders.cache import EmbeddingCache

    try:
        folder = cache_folder()
    except RuntimeError:
        return None
    return EmbeddingCache(folder / "embeddings", embedder.fingerprint)


def _print(console: "Console", found: "Fidelity") -> None:
    from ..plugins.fidelity.report import summary
    from .console import plain_table, printable, say

    for line in summary(found):
        say(console, printable(line))
    if found.floors:
        numbers = ("sample", "synthetic", "floor", "ratio")
        table = plain_table("group", *numbers, numbers=numbers)
        for f in found.floors:
            figures = (f.synthetic, f.synthetic_deviation), (f.floor, f.floor_deviation)
            table.add_row(
                printable(f.group),
                str(f.size),
                *(_with_deviation(*pair) for pair in figures),
                _figure(f.ratio),
            )
        console.print()
        console.print(table)
    numbers = ("value", "sample", "synthetic at it", "real at it")
    table = plain_table("all fields", "better", *numbers, numbers=numbers)
    for r in found.metrics:
        table.add_row(
            r.metric.title, r.metric.better, _figure(r.value), "-" if r.size is None else str(r.size),
            _with_deviation(r.synthetic, r.synthetic_deviation), _with_deviation(r.floor, r.floor_deviation),
        )  # fmt: skip
    console.print()
    console.print(table)
    console.print()
    for line in found.warnings:
        say(console, f"note: {printable(line)}")


def _figure(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.4g}"


def _with_deviation(value: float | None, deviation: float | None) -> str:
    if value is None or deviation is None or deviation != deviation:
        return _figure(value)
    return f"{value:.4g} ± {deviation:.2g}"
