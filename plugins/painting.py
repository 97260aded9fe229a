"""The sampling job: choose fields, paint them, write pairs that can be traced."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import MsdmError
from ..core.fields import IMAGES, MANIFEST, mask_folder
from ..core.files import write_text
from ..core.images import save_image, save_labels
from ..core.manifest import ManifestWriter
from ..core.pictures import SheetRow, save_sheet
from ..core.sample import FACETS, Sample
from .data import data_folder
from .mask_operations.apply import Operation
from .metrics.adherence import Adherence, measure, summarise
from .pipeline import Pipeline, Synthetic
from .recipe_files import dump_recipe
from .recombination import AS_THEY_ARE, PlannedOutput, Recombination
from .solver import load_solver
from .targets import plan_targets

GIVEN_COLOURS, GIVEN_METADATA = "given_colours", "given_metadata"
"""Columns of the manifest where something was given."""
SHEET_ROWS = 24
"""Pairs on the contact sheet at most."""


@dataclass(frozen=True)
class Planned:
    """What will be painted: `fields` fields in `steps` solver steps each, `seen` of them trained on.

    The steps of a field are `evaluations` of the network, which is what is counted while it is painted.
    """

    fields: int
    steps: int
    evaluations: int
    seen: int
    device: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stepped:
    """An evaluation of the network on `fields` fields is done."""

    fields: int


@dataclass(frozen=True)
class Painted:
    """A pair was written."""

    id: str
    adherence: Adherence


Listener = Callable[[Planned | Stepped | Painted], None]


@dataclass(frozen=True)
class Summary:
    """What a sampling job did.

    Attributes
    ----------
    folder, sheet : Path
    pairs : int
    seen : int
        Pairs whose masks the model was trained on.
    figures : dict of str -> float
        From `metrics.adherence.summarise`.
    """

    folder: Path
    sheet: Path
    pairs: int
    seen: int
    figures: dict[str, float]


def empty_folder(out: str | Path) -> Path:
    """A folder to write to, which does not exist yet or is empty.

    Raises
    ------
    MsdmError
        It is not.
    """
    folder = Path(out)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise MsdmError(f"{folder} is not an empty folder; choose another --out")
    return folder


def paint(
    run: str | Path,
    data: str | Path = "histology-nuclei",
    out: str | Path = "samples",
    *,
    n: int | None = None,
    split: str | None = None,
    select: str | Path | None = None,
    versions: int | None = None,
    recombination: Recombination = AS_THEY_ARE,
    operations: Sequence[Operation] = (),
    donors: str | Path | None = None,
    seed: int = 0,
    batch: int = 4,
    device: str | None = None,
    listener: Listener = lambda event: None,
    **settings: Any,
) -> Summary:
    """Paint fields of a data set and write the pairs as a data set in the documented layout.

    Parameters
    ----------
    run : str or Path
        What `Pipeline.load` takes.
    data : str or Path
        A folder, or a data set by name: masks, colours and metadata come from its fields.
    out : str or Path
        A folder that does not exist yet, or is empty.
    n : int or None
        Pairs; None takes 8, or one of every field of a selection.
    split : str or None
        None: the fields that are not in the recipe's training split, where there are any.
    select : path or None
        A selection: its fields are painted, in place of a split's.
    versions : int or None
        So many pairs of every field, in place of `n`.
    recombination : Recombination
        What is taken from other fields, or given.
    operations : sequence of Operation
        Applied to the masks of every pair; `mask_operations.apply.load_operations` makes them.
    donors : str, Path or None
        As `data`: another data set, whose fields give colours and metadata.
    seed : int
        Of the noise, of who takes what from whom, of colours that are drawn from ranges, and of mask
        operations.
    batch, device, **settings
        As `Pipeline.sample` takes them.
    listener : callable
        Called with every event.

    Returns
    -------
    Summary
        Also written as ``summary.json``, beside ``contact-sheet.png`` and ``recipe.yaml``.

    Raises
    ------
    MsdmError
        Anything is wrong with the run, the data, the folder or the settings; nothing is written then.
    """
    folder = empty_folder(out)
    source = data_folder(str(data))
    pipeline = Pipeline.load(run, device=device)
    chosen = pipeline.settings(**settings)
    targets = plan_targets(
        pipeline,
        source,
        n=n,
        split=split,
        select=select,
        versions=versions,
        seed=seed,
        options=recombination,
        operations=operations,
        donors=None if donors is None else data_folder(str(donors)),
    )
    outputs, read = targets.outputs, targets.dataset.by_id
    steps, _ = chosen.walk
    evaluations = load_solver(chosen.solver).evaluations(steps)
    listener(Planned(len(outputs), steps, evaluations, targets.seen, str(pipeline.device), targets.notes))

    sheet_rows: list[SheetRow] = []
    measured: list[Adherence] = []
    with ManifestWriter(folder / MANIFEST) as manifest:
        for start in range(0, len(outputs), batch):
            # loaded as they are painted: a job of thousands of fields holds one batch
            planned = {output.id: output for output in outputs[start : start + batch]}
            fields = [targets.build(output) for output in planned.values()]
            for synthetic in pipeline.sample(
                fields,
                seed=seed,
                batch=batch,
                on_step=lambda count: listener(Stepped(count)),
                **chosen.model_dump(),
            ):
                target, output = synthetic.target, planned[synthetic.id]
                # of masks that were changed there is no real image
                real = None if operations else read(output.morphology).image
                adherence = measure(target, synthetic.image, real=real)
                measured.append(adherence)
                _write_files(folder, synthetic)
                manifest.add(_row(pipeline, synthetic, adherence, output))
                if len(sheet_rows) < SHEET_ROWS:
                    sheet_rows.append(SheetRow(_caption(target), real, target.masks, synthetic.image))
                listener(Painted(target.id, adherence))
    return _finish(folder, pipeline, sheet_rows, measured, targets.seen)


def _write_files(folder: Path, synthetic: Synthetic) -> None:
    """Write an image and its masks."""
    target = synthetic.target
    save_image(folder / IMAGES / f"{target.id}.png", synthetic.image)
    for kind, labels in target.masks.items():
        save_labels(folder / mask_folder(kind) / f"{target.id}.png", labels)


def _row(
    pipeline: Pipeline, synthetic: Synthetic, adherence: Adherence, output: PlannedOutput
) -> dict[str, str]:
    """The manifest row that traces a pair."""
    target = synthetic.target
    settings = synthetic.settings.model_dump(mode="json", exclude={"memory"})  # changes no result
    given = {
        # a painting may be painted from: what was given to it was not given to this one
        **{name: "" for name in (GIVEN_COLOURS, GIVEN_METADATA) if name in target.metadata},
        **({GIVEN_COLOURS: _colours(output)} if output.colours else {}),
        **({GIVEN_METADATA: json.dumps(output.words, sort_keys=True)} if output.words else {}),
    }
    return {
        **target.metadata,
        "id": target.id,
        **{f"source_{facet}": target.source(facet) for facet in FACETS},
        **given,
        "crop": "full",
        "seed": str(synthetic.seed),
        "recipe": pipeline.recipe.name,
        "weights_sha256": pipeline.weights_hash,
        "sampling": json.dumps(settings, sort_keys=True),
        "mask_adherence": _figure(adherence.mask),
        "colour_error_levels": _figure(adherence.colour),
    }


def _colours(output: PlannedOutput) -> str:
    """Given colours as JSON, in levels: ``{"cell": {"mean": [120.0, 60.0, 140.0]}}``."""
    found = {
        kind: {"mean": mean} if std is None else {"mean": mean, "std": std}
        for kind, (mean, std) in output.colours.items()
    }
    return json.dumps(found, sort_keys=True)


def _caption(target: Sample) -> str:
    masks, look, words = (target.source(facet) for facet in FACETS)
    if masks == look == words:
        return target.id
    return f"{target.id}: masks {masks}, colours {look}, metadata {words}"


def _figure(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.4f}"


def _finish(
    folder: Path,
    pipeline: Pipeline,
    rows: Sequence[SheetRow],
    measured: Sequence[Adherence],
    seen: int,
) -> Summary:
    sheet = folder / "contact-sheet.png"
    save_sheet(sheet, rows, f"{pipeline.recipe.name}, {pipeline.step} steps")
    write_text(folder / "recipe.yaml", dump_recipe(pipeline.recipe))
    summary = Summary(folder, sheet, len(measured), seen, summarise(measured))
    report = {
        "pairs": summary.pairs,
        "pairs_of_training_fields": seen,
        "recipe": pipeline.recipe.name,
        "training_steps": pipeline.step,
        "weights_sha256": pipeline.weights_hash,
        **summary.figures,
    }
    write_text(folder / "summary.json", json.dumps(report, indent=2) + "\n")
    return summary
