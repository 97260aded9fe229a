"""The report of a sampling job: what was painted, how well it follows its conditions, where it comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.fields import IMAGES, MANIFEST, locate, mask_folder, mask_kinds
from ...core.images import read_image, read_labels
from ...core.manifest import read_manifest
from ...core.pictures import SheetRow, condition_picture, overlay
from ...core.recipe import Recipe
from ...core.sample import FACETS
from ..filtering import AGREEMENT
from ..metrics.adherence import Adherence
from .figures import strips
from .html import write_report
from .page import Figure, Report, Section, Table
from .pictures import outline_words, sheet, tiles
from .provenance import provenance

if TYPE_CHECKING:
    from ..sampling.products import Summary

FILE = "report.html"
SHOWN = 8
"""Pairs on the sheet at most; and rejected ones."""
WORST = 4
"""Pairs that follow their masks least, shown apart."""
LISTED = 2000
"""Rows of the table of pairs at most."""
_READ = (
    "Mask adherence is the Dice coefficient between the haematoxylin-stained pixels of an image and its "
    "nucleus mask. Real images do not reach 1 with their own masks: read the painted ones against them."
)


@dataclass(frozen=True)
class Job:
    """What a sampling job was asked for and what it did, as the report needs it.

    Attributes
    ----------
    summary : Summary
    recipe : Recipe
    steps : int
        Of training.
    measured : sequence of Adherence
        Of the pairs that were kept, in order.
    rejected : sequence of Adherence
        Of rejected paintings.
    shown, apart : sequence of SheetRow
        The first kept pairs and the first rejected ones.
    settings : mapping
        All that the pairs depend on.
    weights_sha256, device : str
    """

    summary: "Summary"
    recipe: Recipe
    steps: int
    measured: Sequence[Adherence]
    rejected: Sequence[Adherence]
    shown: Sequence[SheetRow]
    apart: Sequence[SheetRow]
    settings: Mapping[str, Any]
    weights_sha256: str
    device: str


def write_sample_report(job: Job) -> Path:
    """Write ``report.html`` into the folder of the pairs.

    Raises
    ------
    MsdmError
        A file of the folder cannot be read, or the report cannot be written.
    """
    path = job.summary.folder / FILE
    write_report(path, sample_report(job))
    return path


def sample_report(job: Job) -> Report:
    """What the report holds."""
    sections = []
    if job.shown:
        sections.append(
            Section("What was painted", [_words(job)], [_sheet(job.shown, "Pairs", job.summary.pairs)])
        )
    adherence = _adherence(job)
    if adherence:
        sections.append(Section("Does it follow its masks and colours?", [_READ], adherence))
    if job.summary.pairs:
        sections.append(_worst(job))
    if job.apart:
        count = len(job.rejected)
        sections.append(Section("Rejected", figures=[_sheet(job.apart, "Rejected paintings", count)]))
    sections.append(Section("In numbers", tables=[_figures(job)]))
    if job.summary.pairs:
        sections.append(Section("Where each facet comes from", tables=[_origins(job)]))
    return Report(
        f"{job.recipe.name}: {job.summary.pairs} painted pairs",
        _summary(job),
        _warnings(job),
        sections,
        job.settings,
        provenance(
            weights_sha256=job.weights_sha256,
            recipe=job.recipe.name,
            training_steps=job.steps,
            device=job.device,
        ),
    )


def _words(job: Job) -> str:
    kinds = outline_words(mask_kinds(job.summary.folder))
    return f"Outlines: {kinds}. The pairs lie beside this file, in the layout of a data set."


def _summary(job: Job) -> list[str]:
    figures, acceptance = job.summary.figures, job.summary.acceptance
    lines = [
        f"{job.summary.pairs} pairs of image and masks, painted by {job.recipe.name} after {job.steps} "
        f"training steps."
    ]
    if acceptance is not None and acceptance.rate is not None:
        lines.append(
            f"{acceptance.accepted} outputs were kept and {acceptance.rejected} rejected; "
            f"{acceptance.rate:.0%} of {acceptance.paintings} paintings passed "
            f"{' and '.join(map(str, acceptance.limits))}."
        )
    if "mask_adherence" in figures:
        line = f"Painted fields agree with their masks with a mean Dice of {figures['mask_adherence']:.3f}"
        if "mask_adherence_real" in figures:
            line += f", the real ones with {figures['mask_adherence_real']:.3f}"
        lines.append(f"{line}.")
    if "colour_error_levels" in figures:
        lines.append(
            f"Mean colours miss the wanted ones by {figures['colour_error_levels']:.1f} of 255 levels."
        )
    return lines


def _warnings(job: Job) -> list[str]:
    summary, found = job.summary, []
    if not summary.pairs:
        found.append("No pair was kept: lower the limits, or look at the rejected paintings first.")
    if summary.seen:
        found.append(
            f"The masks of {summary.seen} of {summary.pairs} pairs were trained on: what is measured of them "
            f"says little of new masks."
        )
    if summary.acceptance is not None and summary.acceptance.not_measured:
        found.append(
            f"{summary.acceptance.not_measured} pairs were kept although a limit could not be held against "
            f"them."
        )
    if summary.figures.get("mask_adherence_ratio", 1.0) < 0.8:
        found.append(
            "Painted fields follow their masks clearly less than real ones do: look at the pairs before you "
            "train a segmenter on them. Longer training, more solver steps or a limit on adherence may help."
        )
    return found


def _sheet(rows: Sequence[SheetRow], title: str, count: int) -> Figure:
    shown = rows[:SHOWN]
    of = f"{len(shown)} of {count}" if count > len(shown) else f"All {count}"
    caption = (
        f"{of}: real image of the masks, masks, painted image, painted image with the outlines of its masks."
    )
    return Figure(title, caption, f"{title}: {caption}", sheet(shown))


def _adherence(job: Job) -> list[Figure]:
    figures = []
    masks = {
        "painted": [a.mask for a in job.measured],
        "real images of the same masks": [
            np.nan if a.mask_real is None else a.mask_real for a in job.measured
        ],
        "rejected paintings": [a.mask for a in job.rejected],
    }
    known = {name: median for name, values in masks.items() if (median := _median(values)) is not None}
    if known:
        alt = "Mask adherence. " + ", ".join(f"{name}: median {value:.3f}" for name, value in known.items())
        caption = "A point per field; higher is better. The box holds the middle half."
        drawn = strips(masks, "Dice of stained pixels and nucleus mask")
        figures.append(Figure("Mask adherence", caption, alt, drawn))
    shifts = np.array([a.shift for a in job.measured if a.shift is not None], np.float64).reshape(-1, 3)
    if np.isfinite(shifts).any():
        channels = dict(zip(("red", "green", "blue"), shifts.T, strict=True))
        alt = "Colour drift. " + ", ".join(
            f"{name}: median {np.nanmedian(v):.1f}" for name, v in channels.items()
        )
        caption = (
            "Painted minus wanted mean colour, a point per field; 0 is best. Points to one side of 0 are a "
            "drift of the model's colours, points on both sides are scatter."
        )
        figures.append(Figure("Colour drift", caption, alt, strips(channels, "levels of 255")))
    return figures


def _median(values: Sequence[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else None


def _worst(job: Job) -> Section:
    known = [a for a in job.measured if np.isfinite(a.mask)]
    worst = sorted(known, key=lambda a: (a.mask, a.id))[:WORST]
    if not worst:
        return Section("Fields that follow their masks least", ["Mask adherence could not be measured."])
    root, rows, captions = job.summary.folder, [], []
    kinds = mask_kinds(root)
    for found in worst:
        image = read_image(locate(root / IMAGES, found.id))
        masks = {
            kind: read_labels(locate(root / mask_folder(kind), found.id)).astype(np.int32) for kind in kinds
        }
        rows.append([condition_picture(masks), image, overlay(image, masks)])
        captions.append(f"{found.id}: Dice {found.mask:.3f}")
    alt = "The pairs with the lowest mask adherence: " + ", ".join(captions)
    figure = Figure(
        "Lowest mask adherence",
        "Masks, painted image, and its outlines. What is wrong with a model shows here first.",
        alt,
        tiles(rows, ("masks", "painted", "painted + outlines"), captions),
    )
    return Section("Fields that follow their masks least", figures=[figure])


def _figures(job: Job) -> Table:
    figures, acceptance = job.summary.figures, job.summary.acceptance
    rows: list[tuple[str, Any]] = [
        ("pairs", job.summary.pairs),
        ("of masks that were trained on", job.summary.seen),
        ("mask adherence, painted (Dice, mean)", figures.get("mask_adherence")),
        ("mask adherence, real (Dice, mean)", figures.get("mask_adherence_real")),
        ("painted over real", figures.get("mask_adherence_ratio")),
        ("colour error (levels of 255, mean)", figures.get("colour_error_levels")),
    ]
    if AGREEMENT in figures:
        rows.append(("agreement with the segmenters' masks (mean)", figures[AGREEMENT]))
    if acceptance is not None:
        rows += [
            ("paintings", acceptance.paintings),
            ("acceptance rate", acceptance.rate),
            *((f"rejected by {limit}", acceptance.reasons[limit.measure]) for limit in acceptance.limits),
        ]
    return Table("Means and counts", ("figure", "value"), rows, "– is what could not be measured.")


def _origins(job: Job) -> Table:
    measured = {a.id: a for a in job.measured}
    manifest = read_manifest(job.summary.folder / MANIFEST)[:LISTED]
    agreed = AGREEMENT in manifest[0]
    rows = []
    for row in manifest:
        found = measured[row["id"]]
        sources = [row[f"source_{facet}"] for facet in FACETS]
        rows.append([row["id"], *sources, found.mask, found.mask_real, found.colour])
        if agreed:
            rows[-1].append(float(row[AGREEMENT]) if row[AGREEMENT] else None)
    columns = ["id", "masks of", "colours of", "metadata of", "mask adherence", "of the real image"]
    columns += ["colour error", *(["agreement"] if agreed else [])]
    more = f" The first {LISTED} of {len(measured)}." if len(measured) > LISTED else ""
    return Table(
        "Pairs",
        columns,
        rows,
        f"All that traces a pair is in {MANIFEST}. Colour error in levels of 255.{more}",
    )
