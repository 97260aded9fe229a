"""What all drawings of a report share: size, type, colours that follow the page, and how they become SVG."""

import io
import re
import unicodedata
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib writes colours; these stand for those of the page, which follow light and dark.
INK, SOFT, LINE, PAGE = "#0100f1", "#0100f2", "#0100f3", "#0100f4"
"""Text and axes; quieter text; grid lines; the ground of the page."""
SERIES = tuple(f"#0100e{i}" for i in range(8))
"""Colours of groups, in the order of use; told apart without red-green vision, too."""
WIDTH = 4.8
"""Of a drawing, in inches: on a phone its type is still read."""
SIZE = 9
"""Of type, in points."""
_PAGE_COLOURS = {INK: "currentColor", SOFT: "var(--soft)", LINE: "var(--line)", PAGE: "var(--page)"} | {
    colour: f"var(--s{i})" for i, colour in enumerate(SERIES)
}
_STYLE: dict[str, Any] = {
    "font.family": "sans-serif", "font.size": SIZE, "axes.titlesize": SIZE, "axes.labelsize": SIZE,
    "xtick.labelsize": SIZE - 1, "ytick.labelsize": SIZE - 1, "legend.fontsize": SIZE - 1,
    "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "legend.labelcolor": INK,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "xtick.color": SOFT, "ytick.color": SOFT,
    "axes.edgecolor": SOFT, "axes.facecolor": "none", "figure.facecolor": "none", "grid.color": LINE,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "legend.frameon": False, "legend.handlelength": 1.4, "legend.columnspacing": 1.4,
    "text.parse_math": False, "text.usetex": False, "svg.fonttype": "none", "svg.hashsalt": "msdm-kit",
}  # fmt: skip


def canvas(
    width: float = WIDTH,
    height: float = 3.0,
    *,
    rows: int = 1,
    columns: int = 1,
    **settings: Any,
) -> "tuple[Figure, list[Axes]]":
    """An empty drawing in the style of the page.

    Colours are `INK`, `SOFT`, `LINE`, `PAGE`, `SERIES`, or fixed ones that can be seen on light and dark.

    Parameters
    ----------
    width, height : float
        In inches.
    rows, columns : int
        Of its axes.
    **settings
        Of `matplotlib.figure.Figure.subplots`.

    Returns
    -------
    figure : matplotlib.figure.Figure
    axes : list of matplotlib.axes.Axes
        Row by row.
    """
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **settings).ravel().tolist()
    return figure, axes


def svg(figure: "Figure") -> bytes:
    """A drawing as SVG whose colours are the page's.

    The same drawing gives the same bytes. Text stays text, is never read as a formula, and loses control
    characters.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Of `canvas`.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        text.set_text(printable(text.get_text()))
    FigureCanvasSVG(figure)
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with _style(), warnings.catch_warnings():
        # the browser has the glyphs that matplotlib's own font lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(file, format="svg", metadata=nothing)
    found = re.compile("|".join(_PAGE_COLOURS))
    return found.sub(lambda match: _PAGE_COLOURS[match[0]], file.getvalue()).encode("utf-8")


def _style() -> "AbstractContextManager[None]":
    """matplotlib's defaults with this style, whatever the user's matplotlibrc says."""
    import matplotlib

    # rc_context does not put a backend back
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if "backend" not in key}
    settings: Any = defaults | _STYLE
    return matplotlib.rc_context(settings)


def printable(text: str) -> str:
    """Text without control characters and lone surrogates, which XML cannot hold; line ends stay."""
    return "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in text)


def shortened(name: str, most: int = 36) -> str:
    """A name as `printable`, with its end cut off where it is longer than `most` characters."""
    name = printable(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"
