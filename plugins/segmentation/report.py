"""The report of an evaluation of masks."""

import math
from pathlib import Path

import numpy as np

from ...core.fields import IMAGES, has_file, locate
from ...core.images import RawImage, read_image
from ...core.pictures import Colour, overlay
from ...core.sample import Labels
from ..report.figures import intervals, strips
from ..report.page import Figure, Report, Section, Table
from ..report.pictures import tiles
from ..report.provenance import provenance
from .evaluation import read_masks
from .results import Evaluation, Summary

WORST = 6
"""Fields that are shown."""
_TRUE: dict[str, Colour] = {"true": (0, 190, 230)}
_PREDICTED: dict[str, Colour] = {"predicted": (213, 94, 0)}
_PAPER = 255
_ENLARGED = 320


def report_of(found: Evaluation) -> Report:
    """Figures of the scores, tables, and the fields with the lowest scores.

    Raises
    ------
    MsdmError
        The image of a field that is shown is damaged.
    """
    first = next((name for name in found.main_metrics if found.summary(name).fields), None)
    sections = [Section("Scores", (_reading(found),), _score_figures(found), _score_tables(found))]
    if found.groups:
        sections.append(_groups(found))
    if found.pairs:
        sections.append(_annotators(found))
    if first is not None:
        sections.append(_worst(found, first))
    return Report(
        title="Evaluation of segmentation",
        summary=[_sentence(found, name) for name in found.main_metrics],
        warnings=_warnings(found),
        sections=sections,
        settings={
            "predicted": str(found.predicted),
            "truths": {name: str(path) for name, path in zip(found.annotators, found.truths, strict=True)},
            "distance of centres": str(found.distance),
            "region": found.region,
            "metrics": list(found.metrics),
        },
        provenance=provenance(),
    )


def _reading(found: Evaluation) -> str:
    several = ", a field's score being the mean over annotators" if found.pairs else ""
    return (
        f"Every score is of one field{several}; means are over fields, whatever they hold. The interval is "
        f"that of the mean, by bootstrap of fields; pooled is the score of all fields as if they were one. "
        f"Two centres at most {found.distance} apart can be one instance. Dice and ASSD are of matched "
        f"instances alone: read them after F1."
    )


def _sentence(found: Evaluation, name: str) -> str:
    of, title = found.summary(name), found.metrics[name].title
    if not of.fields:
        return f"{title}: no field has a value."
    fields = "1 field" if of.fields == 1 else f"{of.fields} fields"
    interval = "" if math.isnan(of.low) else f" (95 % interval {of.low:.3f} to {of.high:.3f})"
    return f"{title}: {of.mean:.3f}{interval}, mean of {fields}."


def _warnings(found: Evaluation) -> list[str]:
    lines = []
    if len(found.fields) < 10:
        lines.append(f"There are {len(found.fields)} fields: means and intervals of so few say little.")
    for name in found.main_metrics:
        without = len(found.fields) - found.summary(name).fields
        if without:
            fields = "1 field has" if without == 1 else f"{without} fields have"
            lines.append(f"{fields} no {found.metrics[name].title}, and its mean leaves them out.")
    return lines


def _score_figures(found: Evaluation) -> list[Figure]:
    """A strip of the fields per metric: those with a unit stand alone, as they need an axis of their own."""
    names = [name for name in found.main_metrics if found.summary(name).fields]
    lengths = [name for name in names if found.metrics[name].title.endswith(", px")]
    shares = [name for name in names if name not in lengths]
    figures = []
    for chosen, label, limits in ((shares, "score", (-0.02, 1.02)), (lengths, "pixels", None)):
        if not chosen:
            continue
        values = {found.metrics[name].title: found.values(name) for name in chosen}
        better = "right" if label == "score" else "left"
        figures.append(
            Figure(
                "Scores of every field" if label == "score" else "Distances of every field",
                f"A point is a field; the box holds the middle half. Further {better} is better.",
                " ".join(_sentence(found, name) for name in chosen),
                strips(values, label, limits=limits),
            )
        )
    return figures


def _row(name: str, of: Summary) -> tuple[str, float, float, float, float, float, int]:
    return name, of.mean, of.sd, of.low, of.high, of.pooled, of.fields


_COLUMNS = ("mean", "sd", "95 % from", "to", "pooled", "fields")


def _score_tables(found: Evaluation) -> list[Table]:
    rows = [_row(about.title, found.summary(name)) for name, about in found.metrics.items()]
    note = "sd is of fields. A dash: no field has a value."
    return [Table("All metrics", ("metric", *_COLUMNS), rows, note)]


def _groups(found: Evaluation) -> Section:
    figures, tables = [], []
    for name in found.main_metrics:
        of = {group: found.summary(name, group) for group in found.groups}
        title = found.metrics[name].title
        shown = {group: (s.mean, s.low, s.high) for group, s in of.items() if s.fields}
        if shown:
            words = "; ".join(f"{group} {triple[0]:.3f}" for group, triple in shown.items())
            figures.append(
                Figure(
                    f"{title} by group",
                    "Mean of the group's fields with its 95 % interval.",
                    words,
                    intervals(shown, title),
                )
            )
        rows = [_row(group, summary) for group, summary in of.items()]
        tables.append(Table(f"{title} by group", ("group", *_COLUMNS), rows))
    return Section("Groups", (), figures, tables)


def _annotators(found: Evaluation) -> Section:
    text = (
        "Agreement is that of each pair of annotators, scored as a prediction is, the one against the other "
        "and the other against the one. A prediction cannot be expected to agree better with annotators than "
        "they do with each other."
    )
    figures = []
    for name in found.main_metrics:
        against = {
            f"prediction, {who}": found.summary(name, annotator=k) for k, who in enumerate(found.annotators)
        }
        among = {
            f"{found.annotators[i]}, {found.annotators[j]}": found.agreement_summary(name, k)
            for k, (i, j) in enumerate(found.pairs)
        }
        shown = {who: (s.mean, s.low, s.high) for who, s in {**against, **among}.items() if s.fields}
        title = found.metrics[name].title
        if shown:
            words = "; ".join(f"{who} {triple[0]:.3f}" for who, triple in shown.items())
            caption = "The prediction against each annotator, then annotators among themselves."
            figures.append(Figure(f"{title} by annotator", caption, words, intervals(shown, title)))
    rows = [
        (about.title, *(found.summary(name, annotator=k).mean for k in range(len(found.annotators))),
         *(getattr(found.agreement_summary(name), key) for key in ("mean", "sd")))
        for name, about in found.metrics.items()
    ]  # fmt: skip
    columns = ("metric", *(f"against {who}" for who in found.annotators), "among annotators", "sd")
    return Section("Annotators", (text,), figures, [Table("Annotators", columns, rows, "sd is of fields.")])


def _worst(found: Evaluation, name: str) -> Section:
    metric = found.metrics[name]
    values = found.values(name) * (1 if metric.better == "higher" else -1)
    worst = [int(i) for i in np.argsort(values, kind="stable")[:WORST] if not np.isnan(values[i])]
    kind, rows, captions = metric.kinds[0], [], []
    for i in worst:
        field = found.fields[i]
        scores = [scores[name].value for scores in field.against]
        ranked = [v if metric.better == "higher" else -v for v in scores]
        k = int(np.nanargmin(ranked))
        true = read_masks(found.truths[k], field.id, [kind])[kind]
        predicted = read_masks(found.predicted, field.id, [kind])[kind]
        ground = _ground([*found.truths, found.predicted], field.id, true)
        rows.append(_panels(ground, true, predicted))
        captions.append(f"{field.id}: {scores[k]:.3f}" + (f", {found.annotators[k]}" if found.pairs else ""))
    figure = Figure(
        f"The {len(rows)} worst fields" if len(rows) > 1 else "The worst field",
        f"By {metric.title}. Outlines of {kind} masks: true cyan, predicted orange."
        + (" Instances outside the region are drawn and not scored." if found.region else ""),
        "; ".join(captions),
        tiles(rows, ("true", "predicted", "both"), captions, side=_ENLARGED),
    )
    return Section("Worst fields", (), [figure], [])


def _ground(folders: list[Path], id: str, labels: Labels) -> RawImage:
    """The image of a field, of the first folder that has one of the masks' size; white where none has."""
    for folder in folders:
        if (folder / IMAGES).is_dir() and has_file(folder / IMAGES, id):
            image = read_image(locate(folder / IMAGES, id))
            if image.shape[:2] == labels.shape:
                return image
    return np.full((*labels.shape, 3), _PAPER, np.uint8)


def _panels(ground: RawImage, true: Labels, predicted: Labels) -> list[RawImage]:
    """The field with true, with predicted, and with both outlines; small ones enlarged by a whole factor."""
    factor = max(1, _ENLARGED // max(true.shape))
    image = ground.repeat(factor, 0).repeat(factor, 1)
    one, other = (labels.repeat(factor, 0).repeat(factor, 1) for labels in (true, predicted))
    return [
        overlay(image, {"true": one}, _TRUE),
        overlay(image, {"predicted": other}, _PREDICTED),
        overlay(image, {"true": one, "predicted": other}, {**_TRUE, **_PREDICTED}),
    ]
