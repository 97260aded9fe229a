"""Statistics of a data set as one HTML page that needs nothing else."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from ..core.fields import IMAGES, locate, mask_folder
from ..core.files import write_text
from ..core.images import read_image, read_labels
from ..core.pictures import kind_colours, overlay
from .statistics import INSTANCE, GroupStatistics, Statistics, has_mask

SHOWN = 12
"""Groups that are drawn and of which fields are shown: the largest."""
EXAMPLES = 2
"""Fields of a group that are shown."""
SIDE = 512
"""Longest side of such a picture, in pixels."""
BINS = 40
# matplotlib writes colours; these two stand for those of the page, which follow light and dark.
_INK, _BAR = "#010203", "#040506"


@dataclass(frozen=True)
class Example:
    """A field that is shown: its group, id, and picture as a data URI."""

    group: str
    id: str
    picture: str


def save_page(found: Statistics, path: str | Path) -> None:
    """Write the page: table, histograms per group, and fields with the outlines of their instances.

    All text from the user's files is escaped. The page asks for nothing from elsewhere, and runs no script.

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
    write_text(path, render(found))


def render(found: Statistics) -> str:
    """The page, as text."""
    from jinja2 import Environment, StrictUndefined, select_autoescape
    from markupsafe import Markup

    template = resources.files(__package__).joinpath("templates/statistics.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=select_autoescape(default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups = dict(list(found.groups.items())[:SHOWN])
    colours = {kind: "#{:02x}{:02x}{:02x}".format(*rgb) for kind, rgb in kind_colours(found.kinds).items()}
    return environment.from_string(template).render(
        name=found.root.resolve().name,
        column=found.column,
        fields=sum(len(group.ids) for group in found.groups.values()),
        groups=len(found.groups),
        shown=len(groups),
        table=found.figures(),
        # matplotlib escapes the text that it draws
        charts=[(title, Markup(svg)) for title, svg in _charts(found, groups)],
        examples=[e for name, group in groups.items() for e in _examples(found, name, group)],
        colours=colours,
    )


def _charts(found: Statistics, groups: dict[str, GroupStatistics]) -> list[tuple[str, str]]:
    charts: list[tuple[str, str]] = []

    def add(title: str, values: dict[str, Any], unit: str) -> None:
        numbers = {name: np.asarray(v, np.float64) for name, v in values.items() if len(v)}
        if numbers:
            charts.append((title, histograms(numbers, unit, f"chart{len(charts)}")))

    for kind in found.kinds:
        there = {name: group.kinds[kind] for name, group in groups.items() if kind in group.kinds}
        for prop, unit in zip(INSTANCE, ("pixels", ""), strict=True):
            title = f"{prop.capitalize()} of {kind} instances"
            add(title, {name: of.instances[prop] for name, of in there.items()}, unit)
        densities = {name: of.density for name, of in there.items()}
        add(f"Density of {kind} instances", densities, "per megapixel of a field")
    add("Nucleus to cell area", {n: g.ratio for n, g in groups.items()}, "of a field")
    return charts


def histograms(values: dict[str, NDArray[np.float64]], unit: str, salt: str) -> str:
    """Histograms under each other over one axis, as SVG.

    Parameters
    ----------
    values : dict of name -> ndarray (N,)
        Each drawn as shares of its own N; the highest hundredth of all is drawn at the end of the axis.
    unit : str
        Below the axis.
    salt : str
        Makes the ids within the SVG different from those of other charts on a page.

    Returns
    -------
    str
        An ``svg`` element, whose colours are the page's ``currentColor`` and ``var(--bar)``.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    together = np.concatenate(list(values.values()))
    low, high = float(together.min()), float(np.quantile(together, 0.99))
    if not high > low:
        low, high = low - 0.5, low + 0.5
    settings: Any = {
        "svg.fonttype": "none", "svg.hashsalt": salt, "text.parse_math": False, "font.family": "sans-serif",
        "text.color": _INK, "axes.edgecolor": _INK, "axes.labelcolor": _INK, "xtick.color": _INK,
        "ytick.color": _INK,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        height = 0.45 + 0.75 * len(values)  # inches
        figure = Figure(figsize=(5.6, height))
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.subplots(len(values), 1, sharex=True, squeeze=False)[:, 0]
        # by hand: matplotlib's own layouts take a second per page
        figure.subplots_adjust(0.03, 0.45 / height, 0.97, 1 - 0.22 / height, hspace=0.6)
        for axis, (name, numbers) in zip(axes, values.items(), strict=True):
            counts, edges = np.histogram(numbers.clip(low, high), BINS, (low, high))
            axis.stairs(counts / len(numbers), edges, fill=True, color=_BAR)
            axis.axvline(float(np.median(numbers)), color=_INK, linewidth=1, linestyle=":")
            short = name if len(name) <= 40 else f"{name[:39]}…"
            axis.set_title(f"{short} ({len(numbers)})", loc="left", fontsize=8, pad=2)
            axis.set_yticks([])
            axis.patch.set_visible(False)
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.tick_params(labelsize=8, bottom=axis is axes[-1])
        axes[-1].set_xlabel(unit, fontsize=8)
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # sizes in points would not shrink on a phone: the viewBox stays
    for size in ("width", "height"):
        svg = re.sub(rf'(<svg\b[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    return svg.replace(_INK, "currentColor").replace(_BAR, "var(--bar)")


def _examples(found: Statistics, name: str, group: GroupStatistics) -> list[Example]:
    """The first field of a group, and others at equal steps through it."""
    count = min(EXAMPLES, len(group.ids))
    ids = [group.ids[k * len(group.ids) // count] for k in range(count)]
    return [Example(name, id, _picture(found.root, found.kinds, id)) for id in ids]


def _picture(root: Path, kinds: Sequence[str], id: str) -> str:
    image = read_image(locate(root / IMAGES, id))
    masks = {
        kind: read_labels(locate(root / mask_folder(kind), id)).astype(np.int32)
        for kind in kinds
        if has_mask(root, kind, id)
    }
    picture = Pillow.fromarray(overlay(image, masks))
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
