"""The report of a fidelity measurement."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.images import RawImage, to_uint8
from ..embedders.fields import Fields
from ..report.figures import distributions, intervals, matrix, scatter, strips
from ..report.page import Figure, Report, Section, Table
from ..report.pictures import tiles
from ..report.provenance import provenance
from .fidelity import Fidelity
from .memory import COPY, COPY_WITHOUT_MASK, Memorisation, oriented
from .projection import Projection

LISTED = 2000
"""Rows of the table of fields at most."""
_FLOOR = (
    "A distance of two finite samples is never 0, and grows as they shrink. The floor is the distance of two "
    "random samples of the real fields; beside it stands that of samples of real and synthetic fields of the "
    "same size. The figures of whole groups are from more fields than the floor can have, and thus a little "
    "lower."
)


def report_of(
    found: Fidelity,
    points: Projection,
    reference: Fields,
    synthetic: Fields,
    settings: Mapping[str, Any],
) -> Report:
    """The page of a measurement.

    Parameters
    ----------
    found : Fidelity
    points : Projection
        Of its features.
    reference, synthetic : Fields
        For pictures of the closest pairs.
    settings : mapping
    """
    sections = [_groups(found), _plane(found, points), _metrics(found)]
    if found.memorisation is not None:
        sections.append(_memory(found, found.memorisation, reference, synthetic))
    if found.adherence is not None:
        sections.append(_adherence(found))
    sections.append(_fields(found))
    return Report(
        title=f"Fidelity of {len(found.synthetic.ids)} synthetic fields to {len(found.real.ids)} real ones",
        summary=summary(found),
        warnings=found.warnings,
        sections=sections,
        settings=settings,
        provenance=provenance(embedder=found.fingerprint),
    )


def summary(found: Fidelity) -> list[str]:
    """What was found, in sentences, the most important first."""
    lines = []
    title, match = distance_title(found), found.matching
    if match is not None and match.p is not None:
        lines.append(
            f"{title} of matching groups {match.mean:.4g}{_sd(match.deviation)}, of others "
            f"{match.other_mean:.4g}{_sd(match.other_deviation)}; permutation test p = {match.p:.3g} "
            f"({match.permutations} relabellings)."
        )
    elif match is not None:
        lines.append(f"{title} of matching groups: {match.mean:.4g}{_sd(match.deviation)}.")
    ratios = [f.ratio for f in found.floors if f.ratio is not None]
    if ratios:
        lines.append(
            f"Against the real-against-real floor, at equal size: {np.mean(ratios):.2f} times as far (mean "
            f"of {len(ratios)} groups; 1 is as good as real)."
        )
    kid = next((r for r in found.metrics if r.metric.name == "kid" and r.value is not None), None)
    if kid is not None:
        lines.append(
            f"Kernel distance {kid.value:.4g}, 95 % interval {kid.low:.4g} to {kid.high:.4g}; 0 is no "
            f"difference."
        )
    memory = found.memorisation
    if memory is not None:
        lines.append(
            f"{len(memory.copies)} of {len(memory.neighbours)} synthetic fields are copies of real ones; "
            f"{memory.nearer:.0%} are nearer to a real field than 95 % of the real fields are to each other "
            f"(5 % expected)."
        )
    follows = found.adherence
    if follows is not None:
        colour = f"; colour error {follows.colour[0]:.3g} levels" if follows.colours else ""
        lines.append(
            f"Mask adherence {follows.synthetic[0]:.3f}, of the real fields {follows.real[0]:.3f}, of turned "
            f"masks {follows.turned[0]:.3f}{colour}."
        )
    return lines


def distance_title(found: Fidelity) -> str:
    """The name of the distance between groups."""
    return next((r.metric.title for r in found.metrics if r.metric.name == found.matrix.distance), "Distance")


def _sd(deviation: float) -> str:
    return f" ± {deviation:.3g}" if np.isfinite(deviation) else ""


def _groups(found: Fidelity) -> Section:
    m, title = found.matrix, distance_title(found)
    both = "" if m.real == m.synthetic else " Groups that both sets have come first."
    alt = f"{title}, rows real, columns synthetic: " + "; ".join(
        f"{r} to {s} {v:.3g}" for r, row in zip(m.real, m.values, strict=True)
        for s, v in zip(m.synthetic, row, strict=True)
    )  # fmt: skip
    drawn = matrix(m.values, m.real, m.synthetic, label=title, axes=("real", "synthetic"))
    figures = [
        Figure(
            "Distances of groups",
            f"{title} of each real group (rows) to each synthetic one (columns). Where synthetic fields "
            f"follow their metadata, the diagonal is lowest in its row and column.{both}",
            alt,
            drawn,
        )
    ]
    tables = []
    if found.matching is not None:
        figures += _matching_figure(found)
    if found.floors:
        tables.append(Table(
            "Groups against the real-against-real floor",
            ("group", "fields of each sample", "synthetic", "±", "floor", "±", "ratio"),
            [
                [f.group, f.size, f.synthetic, f.synthetic_deviation, f.floor, f.floor_deviation, f.ratio]
                for f in found.floors
            ],
            "Means and deviations over repeated random samples of the same size. Deviations are those of one "
            "draw and not of the mean: samples of one set overlap.",
        ))  # fmt: skip
    tables.append(Table(
        "Fields of each group", ("group", "real", "synthetic"),
        [
            [g, dict(zip(m.real, m.real_sizes, strict=True)).get(g, 0),
             dict(zip(m.synthetic, m.synthetic_sizes, strict=True)).get(g, 0)]
            for g in dict.fromkeys([*m.real, *m.synthetic])
        ],
    ))  # fmt: skip
    by = ", ".join(found.group) if found.group else "nothing: all fields are one group"
    return Section("Groups", [f"Grouped by {by}.", _FLOOR], figures, tables)


def _matching_figure(found: Fidelity) -> list[Figure]:
    match = found.matching
    assert match is not None
    values = {"matching groups": found.matrix.matching, "other groups": found.matrix.other}
    values = {name: v for name, v in values.items() if len(v)}
    floors = np.array([f.floor for f in found.floors])
    if len(floors):
        values["real against real (floor)"] = floors
    test = "" if match.p is None else (
        f" p = {match.p:.3g}: the share of {match.permutations} random relabellings of the synthetic fields, "
        f"and of the real labels, in which matching groups are as much nearer. Fields painted from one "
        f"source are not independent, which the test takes them to be: with several versions of each, p is "
        f"too small."
    )  # fmt: skip
    alt = "; ".join(f"{name}: mean {np.mean(v):.4g}, {len(v)} values" for name, v in values.items())
    return [
        Figure(
            "Matching against other groups",
            f"A point per pair of groups.{test}",
            alt,
            strips(values, distance_title(found)),
        )
    ]


def _plane(found: Fidelity, points: Projection) -> Section:
    groups = [*found.real.labels, *found.synthetic.labels]
    origins = ["real"] * len(found.real.ids) + ["synthetic"] * len(found.synthetic.ids)
    drawn = scatter(np.concatenate([points.real, points.synthetic]), groups, origins)
    alt = (
        f"{points.method} of {len(found.real.ids)} real and {len(found.synthetic.ids)} synthetic fields in "
        f"{len(set(groups))} groups. Distances are in the table of groups."
    )
    caption = f"A point per field; colour is the group, filled is real, hollow is synthetic. {points.note}"
    return Section(
        "Features in two dimensions", [], [Figure(f"Features by {points.method}", caption, alt, drawn)]
    )


def _metrics(found: Fidelity) -> Section:
    rows = []
    for r in found.metrics:
        interval = None if r.low is None else f"{r.low:.4g} to {r.high:.4g}"
        rows.append([
            r.metric.title + ("" if r.enough else " (too few fields)"), r.metric.better, r.value, interval,
            r.size, r.synthetic, r.floor, r.floor_deviation,
        ])  # fmt: skip
    table = Table(
        "All fields together",
        (
            "figure",
            "better",
            "value",
            "95 % interval",
            "sample",
            "synthetic, at that size",
            "real, at that size",
            "±",
        ),
        rows,
        "Value: of all fields. At that size: real against synthetic, and real against real, means over "
        "random samples of so many fields; ± is the deviation of one draw of real against real.",
    )
    comparable = [r for r in found.metrics if r.metric.name in ("precision", "recall", "density", "coverage")]
    shown = {
        r.metric.title: _triple(r.synthetic, r.synthetic_deviation)
        for r in comparable
        if r.synthetic is not None
    }
    shown |= {
        f"{r.metric.title}, real against real": _triple(r.floor, r.floor_deviation)
        for r in comparable if r.floor is not None
    }  # fmt: skip
    figures = []
    if shown:
        alt = "; ".join(f"{name} {value[0]:.3f}" for name, value in shown.items())
        figures.append(Figure(
            "Realism and variety",
            "Mean and deviation over random samples of equal size; higher is better.",
            alt,
            intervals(shown, "share, or mean number over k (density)", reference=1.0),
        ))  # fmt: skip
    return Section("Both sets as a whole", [], figures, [table])


def _triple(value: float | None, deviation: float | None) -> tuple[float, float, float]:
    middle, spread = (np.nan if v is None else v for v in (value, deviation))
    return middle, middle - spread, middle + spread


def _memory(found: Fidelity, memory: Memorisation, reference: Fields, synthetic: Fields) -> Section:
    own = np.array([n.distance for n in memory.neighbours])
    values = {"synthetic to nearest real": own, "real to nearest other real": memory.real_distances}
    alt = "; ".join(f"{name}: median {np.median(v):.4g}" for name, v in values.items())
    figures = [
        Figure(
            "Distance to the nearest real field",
            "In feature space. A generator that copies its training set piles up at 0; one whose fields are "
            "unlike any real one lies to the right of the real line.",
            alt,
            distributions(values, "distance of features"),
        ),
        _pairs(memory, reference, synthetic),
    ]
    copies = memory.copies
    tables = []
    if copies:
        tables.append(Table(
            "Copies", ("synthetic", "real", "texture correlation", "mirrored", "quarter turns"),
            [[n.id, n.alike, n.texture, n.flipped, n.turned] for n in copies[:LISTED]],
        ))  # fmt: skip
    text = (
        f"A field counts as a copy where its fine texture correlates with that of a real field by "
        f"{COPY} or more, after what the outlines of its mask explain is taken off both ({COPY_WITHOUT_MASK} "
        f"with outlines of dark regions, where it has no mask), in any of 8 orientations. Looked for among "
        f"{len(memory.real_distances)} real fields. Copies at other scales or angles are not found."
    )
    return Section("Memorisation", [text], figures, tables)


def _pairs(memory: Memorisation, reference: Fields, synthetic: Fields) -> Figure:
    closest = memory.closest()
    wanted = {n.alike for n in closest} | {n.nearest for n in closest}
    real = _images(reference, wanted)
    painted = _images(synthetic, {n.id for n in closest})
    rows, captions = [], []
    for n in closest:
        turned = np.ascontiguousarray(oriented(real[n.alike], n.turned, n.flipped))
        rows.append([painted[n.id], turned, real[n.nearest]])
        copy = ", a copy" if n.copy else ""
        captions.append(f"{n.id}: texture {n.texture:.2f} with {n.alike}{copy}; features nearest {n.nearest}")
    return Figure(
        "The closest pairs",
        "Synthetic fields whose texture is most like that of a real field; that field, turned to lie over "
        "it; and the real field with the nearest features.",
        "; ".join(captions),
        tiles(rows, ("synthetic", "most alike in texture", "nearest in features"), captions),
    )


def _images(fields: Fields, ids: set[str]) -> dict[str, RawImage]:
    found: dict[str, RawImage] = {}
    for i in range(len(fields)):
        if len(found) == len(ids):
            break
        sample = fields[i]
        if sample.id in ids and sample.image is not None:
            found[sample.id] = to_uint8(sample.image)
    return found


def _adherence(found: Fidelity) -> Section:
    follows = found.adherence
    assert follows is not None
    rows = [
        ["real fields, own masks", *follows.real],
        ["synthetic fields, own masks", *follows.synthetic],
        ["synthetic fields, masks turned by 180 degrees (chance)", *follows.turned],
    ]
    tables = [
        Table(
            f"Mask adherence ({follows.kind})",
            ("fields", "mean", "±"),
            rows,
            "Dice of stained pixels and mask.",
        )
    ]
    colours = [
        [f"synthetic fields to the colour that was wanted ({follows.colours} known)", *follows.colour],
        ["real fields to another of their group (a painter that ignores the colour)", *follows.colour_other],
    ]
    tables.append(Table(
        "Colour adherence", ("fields", "mean", "±"), colours,
        "Mean absolute difference of the foreground's mean colour, in levels of 255.",
    ))  # fmt: skip
    values = {
        "synthetic": [f.mask for f in follows.fields],
        "synthetic, masks turned": [f.turned for f in follows.fields],
    }
    alt = (
        f"Means: real {follows.real[0]:.3f}, synthetic {follows.synthetic[0]:.3f}, turned "
        f"{follows.turned[0]:.3f}"
    )
    drawn = strips(values, "Dice of stained pixels and mask", limits=(0, 1))
    figure = Figure(
        "Mask adherence", f"A point per field. Real fields: mean {follows.real[0]:.3f}.", alt, drawn
    )
    return Section("Adherence to masks and colours", [], [figure], tables)


def _fields(found: Fidelity) -> Section:
    from .files import field_rows

    rows = field_rows(found)
    columns = tuple(rows[0])
    note = f"The first {LISTED} of {len(rows)}; all are in fields.csv." if len(rows) > LISTED else ""
    table = Table("Synthetic fields", columns, [list(row.values()) for row in rows[:LISTED]], note)
    return Section("Every synthetic field", [], [], [table])
