"""A fidelity measurement as files: a matrix, a row per field, every figure, and a report."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.files import write_text
from ..embedders.fields import Fields
from ..new_folder import check_new, new_folder
from .fidelity import Fidelity
from .projection import Method, project

SUMMARY, MATRIX, FIELDS, METRICS, REPORT = (
    "fidelity.json",
    "matrix.csv",
    "fields.csv",
    "metrics.csv",
    "report.html",
)


def save_fidelity(
    found: Fidelity,
    out: Path,
    *,
    reference: Fields,
    synthetic: Fields,
    projection: Method = "auto",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write a measurement to a folder, complete or not at all.

    ``fidelity.json`` has all figures, ``matrix.csv`` the distances of groups, ``metrics.csv`` those of the
    whole sets beside their floor, ``fields.csv`` a row per synthetic field with its nearest real ones and
    adherence, ``report.html`` all of it with pictures. What was not measured is an empty cell, or null.

    Parameters
    ----------
    found : Fidelity
    out : Path
        New or empty.
    reference, synthetic : Fields
        Whose closest pairs are shown: what copies were looked for in, and the synthetic set.
    projection : {'auto', 'umap', 'pca'}
    seed : int
        Of the projection.
    settings : mapping or None
        Shown in the report and kept in ``fidelity.json``.

    Raises
    ------
    MsdmError
        The folder is not new, or cannot be written.
    """
    from ..report.html import write_report
    from .report import report_of

    check_new(out)
    points = project(found.real.features, found.synthetic.features, projection, seed)
    report = report_of(found, points, reference, synthetic, settings or {})
    with new_folder(out) as folder:
        text = json.dumps({**summary_of(found), "settings": settings or {}}, indent=2, ensure_ascii=False)
        write_text(folder / SUMMARY, text + "\n")
        matrix = found.matrix
        write_text(folder / MATRIX, _table(
            ("real \\ synthetic", *matrix.synthetic),
            ((name, *map(plain, row)) for name, row in zip(matrix.real, matrix.values, strict=True)),
        ))  # fmt: skip
        rows = metric_rows(found)
        write_text(folder / METRICS, _table(tuple(rows[0]), (tuple(row.values()) for row in rows)))
        fields = field_rows(found)
        write_text(folder / FIELDS, _table(tuple(fields[0]), (tuple(row.values()) for row in fields)))
        write_report(folder / REPORT, report)


def summary_of(found: Fidelity) -> dict[str, Any]:
    """All figures as plain values: what is not known is None."""
    memory, follows, matching = found.memorisation, found.adherence, found.matching
    matrix = found.matrix
    return {
        "fields": {"real": len(found.real.ids), "synthetic": len(found.synthetic.ids)},
        "group": list(found.group),
        "distance": matrix.distance,
        "embedder": found.fingerprint,
        "pixel_size_um": found.pixel_size,
        "matching": None if matching is None else {
            "mean": plain(matching.mean),
            "deviation": plain(matching.deviation),
            "other_mean": plain(matching.other_mean),
            "other_deviation": plain(matching.other_deviation),
            "p": matching.p,
            "permutations": matching.permutations,
        },
        "matrix": {
            "real": dict(zip(matrix.real, matrix.real_sizes, strict=True)),
            "synthetic": dict(zip(matrix.synthetic, matrix.synthetic_sizes, strict=True)),
            "values": [[plain(v) for v in row] for row in matrix.values],
        },
        "floors": [
            {
                "group": f.group, "size": f.size, "floor": plain(f.floor),
                "floor_deviation": plain(f.floor_deviation), "synthetic": plain(f.synthetic),
                "synthetic_deviation": plain(f.synthetic_deviation), "ratio": plain(f.ratio),
            }
            for f in found.floors
        ],
        "metrics": metric_rows(found),
        "memorisation": None if memory is None else {
            "copies": [n.id for n in memory.copies],
            "nearer_than_95_percent_of_real": memory.nearer,
            "median_distance_over_real": plain(memory.ratio),
        },
        "adherence": None if follows is None else {
            "kind": follows.kind,
            **{
                f"{name}{suffix}": plain(value)
                for name, pair in (
                    ("mask_real", follows.real), ("mask_synthetic", follows.synthetic),
                    ("mask_turned", follows.turned), ("colour_error_levels", follows.colour),
                    ("colour_error_levels_of_other_real", follows.colour_other),
                )
                for suffix, value in zip(("", "_deviation"), pair, strict=True)
            },
            "colours_known": follows.colours,
        },
        "warnings": found.warnings,
    }  # fmt: skip


def metric_rows(found: Fidelity) -> list[dict[str, Any]]:
    """A row per metric of the whole sets."""
    return [
        {
            "metric": r.metric.name, "better": r.metric.better, "value": plain(r.value),
            "low": plain(r.low), "high": plain(r.high), "enough_fields": r.enough, "size": r.size,
            "synthetic_at_size": plain(r.synthetic),
            "synthetic_at_size_deviation": plain(r.synthetic_deviation),
            "real_at_size": plain(r.floor), "real_at_size_deviation": plain(r.floor_deviation),
        }
        for r in found.metrics
    ]  # fmt: skip


def field_rows(found: Fidelity) -> list[dict[str, Any]]:
    """A row per synthetic field."""
    near = {} if found.memorisation is None else {n.id: n for n in found.memorisation.neighbours}
    follows = {} if found.adherence is None else {f.id: f for f in found.adherence.fields}
    rows = []
    for id, label in zip(found.synthetic.ids, found.synthetic.labels, strict=True):
        n, f = near.get(id), follows.get(id)
        rows.append({
            "id": id,
            "group": label,
            "nearest": None if n is None else n.nearest,
            "distance": None if n is None else plain(n.distance),
            "alike": None if n is None else n.alike,
            "texture": None if n is None else plain(n.texture),
            "flipped": None if n is None else n.flipped,
            "quarter_turns": None if n is None else n.turned,
            "copy": None if n is None else n.copy,
            "mask_adherence": None if f is None else plain(f.mask),
            "colour_error_levels": None if f is None else plain(f.colour),
        })  # fmt: skip
    return rows


def plain(value: float | None) -> float | None:
    """A number as JSON has it: None for one that is not known or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = (str(v).lower() if isinstance(v, bool) else "" if v is None else v for v in row)
        writer.writerow(list(cells))
    return text.getvalue()
