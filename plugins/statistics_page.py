"""Statistics of a data set as a report: histograms, fields with outlines, and the table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.fields import IMAGES, has_file, locate, mask_folder
from ..core.images import RawImage, read_image, read_labels
from ..core.pictures import overlay
from .report.figures import histograms
from .report.html import render as render_report
from .report.html import write_report
from .report.page import Figure, Report, Section, Table
from .report.pictures import outline_words, png
from .report.provenance import provenance
from .statistics import INSTANCE, GroupStatistics, Statistics

SHOWN = 12
"""Groups that are drawn and of which fields are shown: the largest."""
EXAMPLES = 2
"""Fields of a group that are shown."""
SIDE = 512
"""Longest side of such a picture, in pixels."""
_HISTOGRAM = (
    "All groups are drawn to the same height; their numbers stand beside their names, and the dotted line is "
    "the median. What lies above the highest hundredth is drawn at the end of the axis."
)
_NOTE = (
    "Areas in pixels, densities in instances per megapixel of the field; mean ± standard deviation over "
    "instances. Eccentricity is sqrt(1 − (minor axis / major axis)²) of the ellipse with the instance's "
    "second moments: 0 is a circle. Above 0.85: the share of such instances. Nucleus/cell: nucleus pixels "
    "over cell pixels, mean over fields."
)


def save_page(found: Statistics, path: str | Path) -> None:
    """Write the page: histograms per group, fields with the outlines of their instances, and the table.

    Parameters
    ----------
    found : Statistics
    path : path
        A file that is there is replaced.

    Raises
    ------
    MsdmError
        An image or a mask that is shown is damaged, or the page cannot be written.
    """
    write_report(path, statistics_report(found))


def render(found: Statistics) -> str:
    """The page, as text."""
    return render_report(statistics_report(found))


def statistics_report(found: Statistics) -> Report:
    """What the page holds.

    Raises
    ------
    MsdmError
        An image or a mask that is shown is damaged.
    """
    groups = dict(list(found.groups.items())[:SHOWN])
    fields = sum(len(group.ids) for group in found.groups.values())
    summary = f"{fields} fields"
    if found.column is not None:
        summary += f", grouped by {found.column}: {len(found.groups)} groups"
        if len(groups) < len(found.groups):
            summary += f", the {len(groups)} largest drawn"
    rows = found.figures()
    columns = list(rows[0]) if rows else []
    cells = [[text or None for text in row.values()] for row in rows]
    table = Table("Instances by group and kind", columns, cells, _NOTE)
    examples = [figure for name, group in groups.items() for figure in _examples(found, name, group)]
    return Report(
        f"{found.root.resolve().name}: statistics",
        [summary],
        sections=[
            Section("Distributions", [_HISTOGRAM], _charts(found, groups)),
            Section("Example fields", [f"Outlines: {outline_words(found.kinds)}."], examples),
            Section("Groups", tables=[table] if rows else ()),
        ],
        settings={"data": str(found.root), "group": found.column},
        provenance=provenance(),
    )


def _charts(found: Statistics, groups: dict[str, GroupStatistics]) -> list[Figure]:
    charts: list[Figure] = []

    def add(title: str, values: dict[str, Any], unit: str) -> None:
        numbers = {name: np.asarray(v, np.float64) for name, v in values.items() if len(v)}
        if numbers:
            medians = ", ".join(f"{name} {np.median(v):.4g}" for name, v in numbers.items())
            alt = f"Histograms: {title}. Medians: {medians}."
            charts.append(Figure(title, "", alt, histograms(numbers, unit)))

    for kind in found.kinds:
        there = {name: group.kinds[kind] for name, group in groups.items() if kind in group.kinds}
        for prop, unit in zip(INSTANCE, ("pixels", ""), strict=True):
            title = f"{prop.capitalize()} of {kind} instances"
            add(title, {name: of.instances[prop] for name, of in there.items()}, unit)
        densities = {name: of.density for name, of in there.items()}
        add(f"Density of {kind} instances", densities, "per megapixel of a field")
    add("Nucleus to cell area", {n: g.ratio for n, g in groups.items()}, "of a field")
    return charts


def _examples(found: Statistics, name: str, group: GroupStatistics) -> list[Figure]:
    """The first field of a group, and others at equal steps through it."""
    count = min(EXAMPLES, len(group.ids))
    ids = [group.ids[k * len(group.ids) // count] for k in range(count)]
    caption = "" if found.column is None else f"{found.column}: {name}."
    return [
        Figure(id, caption, f"Field {id} with outlines", png(_picture(found.root, found.kinds, id), SIDE))
        for id in ids
    ]


def _picture(root: Path, kinds: Sequence[str], id: str) -> RawImage:
    masks = {
        kind: read_labels(locate(root / mask_folder(kind), id)).astype(np.int32)
        for kind in kinds
        if has_file(root / mask_folder(kind), id)
    }
    if has_file(root / IMAGES, id):
        return overlay(read_image(locate(root / IMAGES, id)), masks)
    size = next(iter(masks.values())).shape if masks else (SIDE, SIDE)
    return overlay(np.full((*size, 3), 255, np.uint8), masks)
