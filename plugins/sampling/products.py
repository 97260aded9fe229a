"""What a sampling job tells in the end, of the rows of its manifests and of the files alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ...core.fields import IMAGES, JOB_SUMMARY, mask_folder
from ...core.files import write_text
from ...core.images import read_image, read_labels, to_float
from ...core.pictures import SheetRow, save_sheet
from ...core.sample import FACETS
from ..filtering import AGREEMENT, Acceptance, Limit, judge
from ..metrics.adherence import summarise
from ..pipeline import Pipeline
from ..recipe_files import dump_recipe
from ..report.sample_report import FILE as REPORT
from ..report.sample_report import Job, write_sample_report
from ..targets import Targets
from .rows import REJECTED, adherence_of, measures_of
from .settled import Row, Settled, apart_id

SHEET, RECIPE = "contact-sheet.png", "recipe.yaml"
SHEET_ROWS = 24
"""Pairs on the contact sheet at most."""


@dataclass(frozen=True)
class Summary:
    """What a sampling job did.

    Attributes
    ----------
    folder : Path
    sheet : Path or None
        None where no pair was kept.
    pairs : int
        In `folder`.
    seen : int
        Pairs whose masks the model was trained on.
    figures : dict of str -> float
        From `metrics.adherence.summarise`, over the pairs, and the mean ``segmenter_agreement`` of those that
        have one.
    acceptance : Acceptance or None
        What the filter did; None without thresholds.
    rejected : Path or None
        The folder of what was rejected; None where nothing was.
    """

    folder: Path
    sheet: Path | None
    pairs: int
    seen: int
    figures: dict[str, float]
    acceptance: Acceptance | None = None
    rejected: Path | None = None

    @property
    def report(self) -> Path:
        """The page that shows all this."""
        return self.folder / REPORT


def summarised(
    settled: Settled,
    targets: Targets,
    folder: Path,
    apart: Path,
    *,
    limits: Sequence[Limit],
    tries: int,
    agreed: bool,
) -> Summary:
    """The summary of a job's rows.

    Parameters
    ----------
    settled : Settled
    targets : Targets
    folder, apart : Path
        Of the pairs, and of rejected paintings.
    limits : sequence of Limit
    tries : int
    agreed : bool
        Whether segmenters judged the paintings.
    """
    figures = summarise(map(adherence_of, settled.kept))
    agreements = [float(row[AGREEMENT]) for row in settled.kept if row[AGREEMENT]] if agreed else []
    if agreements:
        figures[AGREEMENT] = fmean(agreements)
    pairs = {row["id"] for row in settled.kept}
    return Summary(
        folder,
        folder / SHEET if settled.kept else None,
        len(settled.kept),
        sum(targets.is_seen(output) for output in targets.outputs if output.id in pairs),
        figures,
        _acceptance(settled, targets, limits, tries) if limits else None,
        apart if settled.apart else None,
    )


def _acceptance(settled: Settled, targets: Targets, limits: Sequence[Limit], tries: int) -> Acceptance:
    acceptance = Acceptance(tuple(limits), tries)
    pairs = {row["id"] for row in settled.kept}
    rejected = {row["id"] for row in settled.apart}
    # an output that is neither kept nor out of tries is still to be painted
    last = {apart_id(o.id, tries, tries) for o in targets.outputs if o.id not in pairs} & rejected
    for row in settled.kept:
        acceptance.count(judge(measures_of(row), limits), again=False)
    for row in settled.apart:
        acceptance.count(judge(measures_of(row), limits), again=row["id"] not in last)
    return acceptance


@dataclass(frozen=True)
class Products:
    """The files of a job beside its pairs.

    Attributes
    ----------
    pipeline : Pipeline
    targets : Targets
    settled : Settled
    summary : Summary
    apart : Path
        Of rejected paintings.
    asked : mapping
        All that the pairs depend on, for the report.
    """

    pipeline: Pipeline
    targets: Targets
    settled: Settled
    summary: Summary
    apart: Path
    asked: Mapping[str, Any]

    def are_there(self) -> bool:
        """Whether all are there."""
        paths = [self.summary.folder / name for name in (RECIPE, JOB_SUMMARY, REPORT)]
        sheets = [folder / SHEET for folder, rows in self._folders if rows]
        return all(path.is_file() for path in (*paths, *sheets))

    def write(self) -> None:
        """Write them all.

        Raises
        ------
        MsdmError
            A file of a pair or of the data is gone or damaged, or one cannot be written.
        """
        title = f"{self.pipeline.recipe.name}, {self.pipeline.step} steps"
        shown = self._sheet(self.summary.folder, self.settled.kept, title)
        apart = self._sheet(self.apart, self.settled.apart, f"{title}, rejected")
        folder = self.summary.folder
        write_text(folder / RECIPE, dump_recipe(self.pipeline.recipe))
        write_text(folder / JOB_SUMMARY, json.dumps(self._facts(), indent=2) + "\n")
        measured, rejected = ([*map(adherence_of, rows)] for _, rows in self._folders)
        pipeline = self.pipeline
        write_sample_report(
            Job(
                self.summary, pipeline.recipe, pipeline.step, measured, rejected, shown, apart, self.asked,
                pipeline.weights_hash, str(pipeline.device),
            )
        )  # fmt: skip

    @property
    def _folders(self) -> tuple[tuple[Path, list[Row]], tuple[Path, list[Row]]]:
        return (self.summary.folder, self.settled.kept), (self.apart, self.settled.apart)

    def _facts(self) -> dict[str, Any]:
        acceptance = self.summary.acceptance
        return {
            "pairs": self.summary.pairs,
            "pairs_of_training_fields": self.summary.seen,
            "recipe": self.pipeline.recipe.name,
            "training_steps": self.pipeline.step,
            "weights_sha256": self.pipeline.weights_hash,
            **self.summary.figures,
            **({"filter": acceptance.report()} if acceptance is not None else {}),
        }

    def _sheet(self, folder: Path, rows: Sequence[Row], title: str) -> list[SheetRow]:
        """Write the contact sheet of a folder, where it has pairs; what it shows."""
        shown = [self._shown(folder, row) for row in rows[:SHEET_ROWS]]
        if shown:
            save_sheet(folder / SHEET, shown, title)
        return shown

    def _shown(self, folder: Path, row: Row) -> SheetRow:
        """A pair as it lies in its folder, and the real image of its masks."""
        id, source = row["id"], row["source_morphology"]
        masks = {
            kind: read_labels(folder / mask_folder(kind) / f"{id}.png").astype(np.int32)
            for kind in self.pipeline.recipe.data.masks
        }
        # of masks that were changed there is no real image
        real = None if self.targets.operations else self.targets.dataset.by_id(source).image
        return SheetRow(_caption(row), real, masks, to_float(read_image(folder / IMAGES / f"{id}.png")))


def _caption(row: Row) -> str:
    masks, look, words = (row[f"source_{facet}"] for facet in FACETS)
    text = row["id"]
    if not masks == look == words:
        text += f": masks {masks}, colours {look}, metadata {words}"
    return f"{text}: {row[REJECTED]}" if row.get(REJECTED) else text
