"""The sampling job: choose fields, paint them, write pairs that can be traced."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.dataset import FieldDataset
from ..core.errors import MsdmError
from ..core.fields import IMAGES, MANIFEST, mask_folder
from ..core.files import write_text
from ..core.images import save_image, save_labels
from ..core.manifest import write_manifest
from ..core.pictures import SheetRow, save_sheet
from ..core.sample import FACETS, Sample
from .data import data_folder
from .metrics.adherence import Adherence, measure, summarise
from .pipeline import Pipeline, Synthetic
from .recipe_files import dump_recipe
from .splits import one_label_notes

SHEET_ROWS = 24
"""Pairs on the contact sheet at most."""


@dataclass(frozen=True)
class Planned:
    """What will be painted: `fields` fields in `steps` solver steps each, `seen` of them trained on."""

    fields: int
    steps: int
    seen: int
    device: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stepped:
    """A solver step of `fields` fields is done."""

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


@dataclass(frozen=True)
class Choice:
    """The k-th field of a data set, in its v-th version from 1."""

    field: int
    version: int

    def load(self, dataset: FieldDataset) -> Sample:
        """The field; a further version has an id of its own, so that its noise is another."""
        sample = dataset[self.field]
        if self.version == 1:
            return sample
        sources = {facet: sample.id for facet in FACETS}
        return replace(sample, id=f"{sample.id}_v{self.version}", sources=sources)


def choose(count: int, n: int) -> list[Choice]:
    """`n` of `count` fields, spread evenly; beyond `count`, further versions of each."""
    chosen = []
    for version in range(1, -(-n // count) + 1):
        take = min(count, n - (version - 1) * count)
        chosen += [Choice(k * count // take, version) for k in range(take)]
    return chosen


def open_fields(data: Path, pipeline: Pipeline, split: str | None) -> FieldDataset:
    """The fields to choose from: of a split, or else those that are not for training where there are any."""
    recipe = pipeline.recipe
    dataset = FieldDataset(data, masks=recipe.data.masks, split=split)
    if split is None and "split" in dataset.rows[0]:
        unseen = [row["id"] for row in dataset.rows if row["split"] != recipe.data.train_split]
        if unseen:
            return dataset.subset(unseen)
    return dataset


def paint(
    run: str | Path,
    data: str | Path = "histology-nuclei",
    out: str | Path = "samples",
    *,
    n: int = 8,
    split: str | None = None,
    seed: int = 0,
    batch: int = 4,
    device: str | None = None,
    listener: Listener = lambda event: None,
    **settings: Any,
) -> Summary:
    """Paint `n` fields of a data set and write the pairs as a data set in the documented layout.

    Parameters
    ----------
    run : str or Path
        What `Pipeline.load` takes.
    data : str or Path
        A folder, or a data set by name: masks, colours and metadata come from its fields.
    out : str or Path
        A folder that does not exist yet, or is empty.
    n : int
        Pairs.
    split : str or None
        None: the fields that are not in the recipe's training split, where there are any.
    seed, batch, device, **settings
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
    folder = Path(out)
    if n < 1:
        raise MsdmError(f"cannot paint {n} fields; give --n 1 or more")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise MsdmError(f"{folder} is not an empty folder; choose another --out")
    source = data_folder(str(data))
    pipeline = Pipeline.load(run, device=device)
    chosen = pipeline.settings(**settings)
    dataset = open_fields(source, pipeline, split)
    choices = choose(len(dataset), n)
    ids = set()
    for choice in choices:
        field = choice.load(dataset)
        if field.id in ids:
            raise MsdmError(
                f"{source} has a field {field.id!r}, which is also a further version of another; paint at "
                f"most {len(dataset)}"
            )
        ids.add(field.id)
        pipeline.check(field)
    trained = pipeline.recipe.data.train_split
    seen = sum(dataset.rows[choice.field].get("split") == trained for choice in choices)
    listener(Planned(len(choices), chosen.steps, seen, str(pipeline.device), tuple(one_label_notes(dataset))))

    rows: list[dict[str, str]] = []
    sheet_rows: list[SheetRow] = []
    measured: list[Adherence] = []
    for start in range(0, len(choices), batch):
        # loaded as they are painted: a job of thousands of fields holds one batch
        fields = [choice.load(dataset) for choice in choices[start : start + batch]]
        for synthetic in pipeline.sample(
            fields,
            seed=seed,
            batch=batch,
            on_step=lambda count: listener(Stepped(count)),
            **chosen.model_dump(),
        ):
            target = synthetic.target
            adherence = measure(target, synthetic.image, real=target.image)
            measured.append(adherence)
            rows.append(_write_pair(folder, pipeline, synthetic, adherence))
            write_manifest(folder / MANIFEST, rows)
            if len(sheet_rows) < SHEET_ROWS:
                sheet_rows.append(SheetRow(target.id, target.image, target.masks, synthetic.image))
            listener(Painted(target.id, adherence))
    return _finish(folder, pipeline, sheet_rows, measured, seen)


def _write_pair(
    folder: Path, pipeline: Pipeline, synthetic: Synthetic, adherence: Adherence
) -> dict[str, str]:
    """Write an image and its masks; the manifest row that traces them."""
    target = synthetic.target
    save_image(folder / IMAGES / f"{target.id}.png", synthetic.image)
    for kind, labels in target.masks.items():
        save_labels(folder / mask_folder(kind) / f"{target.id}.png", labels)
    settings = synthetic.settings.model_dump(mode="json")
    return {
        **target.metadata,
        "id": target.id,
        **{f"source_{facet}": target.source(facet) for facet in FACETS},
        "crop": "full",
        "seed": str(synthetic.seed),
        "recipe": pipeline.recipe.name,
        "weights_sha256": pipeline.weights_hash,
        "sampling": json.dumps(settings, sort_keys=True),
        "mask_adherence": _figure(adherence.mask),
        "colour_error_levels": _figure(adherence.colour),
    }


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
