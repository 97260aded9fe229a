"""An evaluation of masks as files: scores of every field, a summary, and a report."""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...core.files import write_text
from ..new_folder import check_new, new_folder
from .results import Evaluation, Summary, summarise

FIELDS, AGREEMENT, SUMMARY, REPORT = "fields.csv", "agreement.csv", "summary.json", "report.html"


def save_evaluation(found: Evaluation, out: Path) -> None:
    """Write an evaluation to a folder, complete or not at all.

    ``fields.csv`` has a row per field and annotator; ``agreement.csv``, where there are several annotators, a
    row per field and pair of them; ``summary.json`` what `summary_of` gives; ``report.html`` figures, tables
    and the worst fields. A figure that a field does not have is an empty cell, or null.

    Parameters
    ----------
    found : Evaluation
    out : Path
        New or empty.

    Raises
    ------
    MsdmError
        It is not, or cannot be written; or the image of a shown field is damaged.
    """
    from ..report.html import write_report
    from .report import report_of

    check_new(out)
    report = report_of(found)
    with new_folder(out) as folder:
        write_text(folder / FIELDS, _table(("id", "group", "annotator", *found.metrics), _field_rows(found)))
        if found.pairs:
            columns = ("id", "group", "annotator", "other", *found.metrics)
            write_text(folder / AGREEMENT, _table(columns, _agreement_rows(found)))
        text = json.dumps(summary_of(found), indent=2, ensure_ascii=False, allow_nan=False)
        write_text(folder / SUMMARY, text + "\n")
        write_report(folder / REPORT, report)


def summary_of(found: Evaluation) -> dict[str, Any]:
    """Means over fields as plain values: of all, by annotator, by group, and of annotators among themselves.

    Returns
    -------
    dict
        ``metrics`` -> name -> the values of `Summary`, ``annotators`` (the same against each), ``groups``
        and, where there are several annotators, ``agreement``: the same but ``pooled``, ``pairs`` (the same
        of each pair), and ``sd_pairs``, the deviation of the pairs' means.
    """
    return {
        "predicted": str(found.predicted),
        "truths": {name: str(path) for name, path in zip(found.annotators, found.truths, strict=True)},
        "fields": len(found.fields),
        "distance": str(found.distance),
        "region": found.region,
        "metrics": {name: _metric(found, name) for name in found.metrics},
    }


def _metric(found: Evaluation, name: str) -> dict[str, Any]:
    about = found.metrics[name]
    values: dict[str, Any] = {"title": about.title, "better": about.better, **_plain(found.summary(name))}
    values["annotators"] = {
        annotator: _plain(found.summary(name, annotator=k)) for k, annotator in enumerate(found.annotators)
    }
    if found.groups:
        values["groups"] = {group: _plain(found.summary(name, group)) for group in found.groups}
    if found.pairs:
        pairs = [found.agreement_summary(name, k) for k in range(len(found.pairs))]
        spread = summarise(np.array([pair.mean for pair in pairs]))
        values["agreement"] = {
            **_plain(found.agreement_summary(name), pooled=False),
            "sd_pairs": _number(spread.sd),
            "pairs": {
                f"{found.annotators[i]} | {found.annotators[j]}": _plain(pair, pooled=False)
                for (i, j), pair in zip(found.pairs, pairs, strict=True)
            },
        }
    return values


def _plain(summary: Summary, *, pooled: bool = True) -> dict[str, Any]:
    values = {key: _number(value) for key, value in asdict(summary).items()}
    if not pooled:
        del values["pooled"]
    return values


def _number(value: float) -> float | int | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _field_rows(found: Evaluation) -> Iterable[Sequence[str]]:
    for field in found.fields:
        for annotator, scores in zip(found.annotators, field.against, strict=True):
            yield field.id, field.group, annotator, *(_cell(scores[name].value) for name in found.metrics)


def _agreement_rows(found: Evaluation) -> Iterable[Sequence[str]]:
    for field in found.fields:
        for (i, j), scores in zip(found.pairs, field.agreement, strict=True):
            names = found.annotators[i], found.annotators[j]
            yield field.id, field.group, *names, *(_cell(scores[name]) for name in found.metrics)


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
