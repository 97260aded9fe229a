"""The manifest row of a painted pair: what traces it, and what was measured of it."""

import json
import math
from collections.abc import Mapping
from typing import Any

from ...core.fields import CLASSES_HASH, HASHES
from ...core.recipe import SampleSection
from ...core.sample import FACETS
from ..filtering import AGREEMENT
from ..metrics.adherence import Adherence
from ..pipeline import Pipeline, Synthetic
from ..recombination import PlannedOutput

GIVEN_COLOURS, GIVEN_METADATA = "given_colours", "given_metadata"
"""Columns where something was given."""
TRY, REJECTED = "try", "rejected_because"
"""Columns where paintings were filtered."""
MASK, REAL, COLOUR, SHIFT = (
    "mask_adherence",
    "mask_adherence_real",
    "colour_error_levels",
    "colour_shift_levels",
)
"""Columns of what was measured. Numbers are written so that they are read back as they were, to the bit."""


def pair_row(
    pipeline: Pipeline,
    synthetic: Synthetic,
    adherence: Adherence,
    output: PlannedOutput,
    *,
    seed: int,
    attempt: int | None = None,
    agreement: float | None = None,
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
    agreement : float or None
        Of segmenters, where there are any.
    """
    target = synthetic.target
    own = {
        GIVEN_COLOURS: _colours(output) if output.colours else "",
        GIVEN_METADATA: json.dumps(output.words, sort_keys=True) if output.words else "",
        TRY: "" if attempt is None else str(attempt),
        REJECTED: "",
        CLASSES_HASH: "",
        **{column: "" for column in target.metadata if column.startswith(HASHES)},
    }
    # of a job with segmenters every row has the column, measured or not
    agreed = {} if agreement is None and AGREEMENT not in target.metadata else {AGREEMENT: _figure(agreement)}
    return {
        "id": target.id,
        **{column: value for column, value in target.metadata.items() if column != "id"},
        **{f"source_{facet}": target.source(facet) for facet in FACETS},
        # a painting may be painted from: what was said of it is not said of this one
        **{name: text for name, text in own.items() if text or name in target.metadata},
        "crop": "full",
        "seed": str(seed),
        "recipe": pipeline.recipe.name,
        "weights_sha256": pipeline.weights_hash,
        "sampling": json.dumps(_traced(synthetic.settings), sort_keys=True),
        MASK: _figure(adherence.mask),
        REAL: _figure(adherence.mask_real),
        COLOUR: _figure(adherence.colour),
        SHIFT: "" if adherence.shift is None or math.isnan(adherence.shift[0]) else str([*adherence.shift]),
        **agreed,
    }


def adherence_of(row: Mapping[str, str]) -> Adherence:
    """What was measured of a pair, from its row."""
    real, colour, shift = row[REAL], row[COLOUR], row[SHIFT]
    return Adherence(
        row["id"],
        float(row[MASK] or "nan"),
        float(real) if real else None,
        float(colour) if colour else None,
        tuple(json.loads(shift)) if shift else None,
    )


def measures_of(row: Mapping[str, str]) -> dict[str, float | None]:
    """What a filter may hold against limits, under the names of the columns; None where it is not known."""
    return {name: float(row[name]) if row.get(name) else None for name in (MASK, COLOUR, AGREEMENT)}


def _figure(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))


def _colours(output: PlannedOutput) -> str:
    """Given colours as JSON, in levels: ``{"cell": {"mean": [120.0, 60.0, 140.0]}}``."""
    found = {
        kind: {"mean": mean} if std is None else {"mean": mean, "std": std}
        for kind, (mean, std) in output.colours.items()
    }
    return json.dumps(found, sort_keys=True)


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
