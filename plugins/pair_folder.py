"""A folder of painted pairs: a data set that grows by a pair at a time, each traced in its manifest."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.fields import IMAGES, MANIFEST, mask_folder
from ..core.images import save_image, save_labels
from ..core.manifest import ManifestWriter
from ..core.pictures import SheetRow, save_sheet
from ..core.recipe import SampleSection
from ..core.sample import FACETS, Image, Sample
from .instances import GrowingInstanceFile
from .metrics.adherence import Adherence
from .pipeline import Pipeline, Synthetic
from .recombination import PlannedOutput

GIVEN_COLOURS, GIVEN_METADATA = "given_colours", "given_metadata"
"""Columns of the manifest where something was given."""
TRY, REJECTED = "try", "rejected_because"
"""Columns of the manifest where paintings were filtered."""
SHEET_ROWS = 24
"""Pairs on the contact sheet at most."""


def rejected_folder(out: Path) -> Path:
    """Where rejected paintings go: ``OUT.rejected``, beside `out`; a folder within would be a mask kind."""
    named = out if out.name not in ("", "..") else out.resolve()
    return named.with_name(f"{named.name}.rejected")


class PairFolder:
    """A data set of painted pairs; a context manager. It is made when the first pair comes.

    Whatever way a job ends, all that its manifest lists is there, and whole.

    Parameters
    ----------
    folder : Path
        New or empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manifest = ManifestWriter(folder / MANIFEST)
        self._classes = GrowingInstanceFile(folder)
        self._shown: list[SheetRow] = []

    def __enter__(self) -> "PairFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        self._classes.close()
        self._manifest.close()

    def add(self, synthetic: Synthetic, row: Mapping[str, str], real: Image | None) -> None:
        """Write a pair and the classes of its instances under the id of its row, and then the row.

        Raises
        ------
        MsdmError
            As `ManifestWriter.add`, or a file cannot be written.
        """
        id, target = row["id"], synthetic.target
        save_image(self.folder / IMAGES / f"{id}.png", synthetic.image)
        for kind, labels in target.masks.items():
            save_labels(self.folder / mask_folder(kind) / f"{id}.png", labels)
        self._classes.add(id, {kind: target.classes.get(kind, {}) for kind in target.masks})
        self._manifest.add(row)
        if len(self._shown) < SHEET_ROWS:
            self._shown.append(SheetRow(_caption(target, row), real, target.masks, synthetic.image))

    @property
    def shown(self) -> Sequence[SheetRow]:
        """The first pairs, as a contact sheet shows them."""
        return self._shown

    def save_sheet(self, title: str) -> Path | None:
        """Write ``contact-sheet.png`` of the first pairs; None where there are none."""
        if not self._shown:
            return None
        path = self.folder / "contact-sheet.png"
        save_sheet(path, self._shown, title)
        return path


def pair_row(
    pipeline: Pipeline,
    synthetic: Synthetic,
    adherence: Adherence,
    output: PlannedOutput,
    *,
    seed: int,
    attempt: int | None = None,
) -> dict[str, str]:
    """The manifest row that traces a pair.

    Parameters
    ----------
    pipeline, synthetic, adherence, output
        What painted it, the painting, what was measured of it, what was planned.
    seed : int
        Of the job.
    attempt : int or None
        Which painting of its output it is, where paintings are filtered.
    """
    target = synthetic.target
    settings = _traced(synthetic.settings)
    own = {
        GIVEN_COLOURS: _colours(output) if output.colours else "",
        GIVEN_METADATA: json.dumps(output.words, sort_keys=True) if output.words else "",
        TRY: "" if attempt is None else str(attempt),
        REJECTED: "",
    }
    return {
        **target.metadata,
        "id": target.id,
        **{f"source_{facet}": target.source(facet) for facet in FACETS},
        # a painting may be painted from: what was said of it is not said of this one
        **{name: text for name, text in own.items() if text or name in target.metadata},
        "crop": "full",
        "seed": str(seed),
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


def _caption(target: Sample, row: Mapping[str, str]) -> str:
    masks, look, words = (target.source(facet) for facet in FACETS)
    text = row["id"]
    if not masks == look == words:
        text += f": masks {masks}, colours {look}, metadata {words}"
    return f"{text}: {row[REJECTED]}" if row.get(REJECTED) else text


def _figure(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.4f}"


def _traced(settings: SampleSection) -> dict[str, Any]:
    """What changes the image; what is turned off is left out, with what says more of it."""
    # memory changes no result, and what was done to the masks has a column of its own
    left = {"memory", "mask_operations"}
    if settings.window is None:
        left |= {"window", "overlap"}
    if not settings.from_image:
        left |= {"start", "strength"}
    if settings.keep == "nothing":
        left |= {"keep", "keep_margin"}
    return settings.model_dump(mode="json", exclude=left)
