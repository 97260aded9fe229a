"""Findings about the manifest: its columns, what no row names, and slides or patients in several splits."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ...core.fields import CLASSES_HASH, HASHES, IMAGES, JOB, JOB_SUMMARY, MANIFEST, mask_folder
from ...core.images import SUFFIXES
from .finding import Finding

WANTED = {
    "split": "training then holds out one field in ten by a hash of its id, neighbours on a slide among them",
    "assay": "the paper's recipe msdm reads it",
    "indication": "the paper's recipe msdm reads it",
}
SLIDES = ("slide", "slide_id", "slide_name", "wsi", "wsi_id")
GROUPS = ("patient", "patient_id", "case", "case_id", "specimen", "specimen_id", "block", *SLIDES)
"""Columns whose values must not lie in several splits, in lower case."""
RECORDS = frozenset(
    [
        "id",
        "source",
        "source_id",
        "licence",
        "license",
        "height",
        "width",
        "cells_derived",
        "cell_expand_px",
        "crop",
        "seed",
        "recipe",
        "sampling",
        "weights_sha256",
        "given_colours",
        "given_metadata",
        "source_morphology",
        "source_appearance",
        "source_metadata",
        "mask_adherence",
        "mask_adherence_real",
        "colour_error_levels",
        "colour_shift_levels",
        "mask_operations",
        "try",
        "rejected_because",
        "segmenter",
        "segmenter_agreement",
        CLASSES_HASH,
    ]
)
"""Columns that record where a field comes from: they may be of one value, or empty."""
_SHOWN = 3


def job_findings(root: Path) -> Iterator[Finding]:
    """Whether the fields are those of a sampling job that has not ended: the manifest is still to grow."""
    if (root / JOB).is_file() and not (root / JOB_SUMMARY).is_file():
        yield Finding("unfinished-job", JOB, "", f"and no {JOB_SUMMARY}, which is written at the end")


def column_findings(rows: Sequence[Mapping[str, str]]) -> Iterator[Finding]:
    """Columns that are missing, have empty values, or one value only."""
    for column, why in WANTED.items():
        if column not in rows[0]:
            yield Finding("missing-column", MANIFEST, column, why)
    for column in rows[0]:
        if column in RECORDS or column.startswith(HASHES):
            continue
        empty = [row["id"] for row in rows if not row[column].strip()]
        values = {row[column] for row in rows if row[column].strip()}
        if empty:
            yield Finding(
                "empty-values", MANIFEST, column, f"{len(empty)} of {len(rows)} rows: {_some(empty)}"
            )
        if len(values) == 1 and len(rows) > 1 and not empty:
            yield Finding("one-value", MANIFEST, column, f"{values.pop()!r:.60} in all {len(rows)} rows")


def group_leak_findings(rows: Sequence[Mapping[str, str]]) -> Iterator[Finding]:
    """Slides and patients of which fields lie in several splits."""
    if "split" not in rows[0]:
        return
    for column in rows[0]:
        if column.lower() not in GROUPS:
            continue
        splits: dict[str, dict[str, str]] = {}
        for row in rows:
            if row[column].strip():
                splits.setdefault(row[column], {}).setdefault(row["split"], row["id"])
        for value, by_split in splits.items():
            if len(by_split) > 1:
                where = ", ".join(f"{split!r} ({id})" for split, id in sorted(by_split.items()))
                yield Finding("leak-group", MANIFEST, column, f"{value!r:.60} in splits {where}")


def unlisted_findings(root: Path, kinds: Sequence[str], ids: frozenset[str]) -> Iterator[Finding]:
    """Pictures in the data set's folders that no row names."""
    for folder in (IMAGES, *map(mask_folder, kinds)):
        if not (root / folder).is_dir():
            continue
        for path in sorted((root / folder).iterdir()):
            if path.suffix in SUFFIXES and path.stem not in ids:
                yield Finding(
                    "unlisted-file", f"{folder}/{path.name}", "", f"no row has id {path.stem!r:.210}"
                )


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_SHOWN]) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")
