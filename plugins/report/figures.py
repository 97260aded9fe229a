"""The drawings that reports share. Each gives SVG for `page.Figure.content`, in the colours of the page.

What is not a number (NaN, None as NaN) is left out of a drawing. Names may be any text.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .canvas import INK, SERIES, SIZE, SOFT, WIDTH, canvas, shortened, svg
from .numbers import DASH, four_digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = NDArray[np.float64]
BINS = 40
POINTS = 4000
"""Most points of a scatter plot or strip; of more, every k-th is drawn, and the figure says so."""
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "o^sDvP"


def histograms(values: Mapping[str, ArrayLike], label: str) -> bytes:
    """Histograms under each other over one axis.

    Parameters
    ----------
    values : mapping name -> array (N,)
        Each drawn to the same height, with a dotted line at its median; the highest hundredth of all is drawn
        at the end of the axis.
    label : str
        Below the axis: what it is, with its unit.
    """
    known = _known(values)
    low, high = _range(known)
    # one axis for all: axes are what matplotlib is slow at
    figure, (axis,) = canvas(height=0.55 + 0.6 * max(1, len(known)))
    for i, (name, numbers) in enumerate(known.items()):
        counts, edges = np.histogram(numbers.clip(low, high), BINS, (low, high))
        axis.stairs(i + 1 - 0.65 * counts / counts.max(), edges, baseline=i + 1, fill=True, color=SERIES[0])
        axis.plot([low, high], [i + 1, i + 1], color=SOFT, linewidth=0.8)
        middle = float(np.median(numbers))
        axis.plot([middle, middle], [i + 0.35, i + 1], color=INK, linewidth=1.2, linestyle=":")
        _row_name(axis, i + 0.3, f"{shortened(name)} ({len(numbers)})")
    axis.set_ylim(max(1, len(known)), 0)
    axis.set_yticks([])
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.set_xlabel(label)
    return svg(figure)


def distributions(
    values: Mapping[str, ArrayLike], label: str, *, limits: tuple[float, float] | None = None
) -> bytes:
    """Histograms of several groups over each other, as lines: Figure 2b of the MSDM paper.

    Parameters
    ----------
    values : mapping name -> array (N,)
        Each drawn as shares of its own N, in bins that all share.
    label : str
        Below the axis.
    limits : (float, float) or None
        Of the axis; None takes the lowest value and the 99th percentile. Values beyond it are drawn in the
        outermost bins.
    """
    known = _known(values)
    low, high = limits or _range(known)
    labels = [f"{shortened(name)} ({len(numbers)})" for name, numbers in known.items()]
    figure, (axis,) = canvas(height=2.8 + _legend_height(labels))
    for i, numbers in enumerate(known.values()):
        counts, edges = np.histogram(numbers.clip(low, high), BINS, (low, high))
        axis.stairs(
            counts / len(numbers), edges, color=SERIES[i % len(SERIES)], linewidth=1.6,
            linestyle=_DASHES[i % len(_DASHES)], label=labels[i],
        )  # fmt: skip
    axis.set_xlabel(label)
    axis.set_ylabel("share")
    axis.set_ylim(bottom=0)
    _legend(axis)
    return svg(figure)


def strips(
    values: Mapping[str, ArrayLike], label: str, *, limits: tuple[float, float] | None = None
) -> bytes:
    """Every value as a point, and a box over the middle half with a line at the median; a row per group.

    Parameters
    ----------
    values : mapping name -> array (N,)
        The median and N stand beside the name.
    label : str
        Below the axis.
    limits : (float, float) or None
        Of the axis.
    """
    known = _known(values)
    figure, (axis,) = canvas(height=0.7 + 0.55 * max(1, len(known)))
    for i, (name, numbers) in enumerate(known.items()):
        shown, note = _thinned(np.sort(numbers))
        # the golden ratio spreads neighbours, and needs no random numbers
        off = ((np.arange(len(shown)) * 0.6180339887) % 1 - 0.5) * 0.36
        colour = SERIES[i % len(SERIES)]
        few = len(shown) <= 60
        axis.scatter(
            shown, i + off, s=18 if few else 8, color=colour, alpha=0.85 if few else 0.55, linewidths=0
        )
        low, middle, high = np.quantile(numbers, (0.25, 0.5, 0.75))
        axis.plot(
            [low, high, high, low, low], [i - 0.22, i - 0.22, i + 0.22, i + 0.22, i - 0.22], color=INK, lw=1
        )
        axis.plot([middle, middle], [i - 0.22, i + 0.22], color=INK, lw=2)
        words = f"{shortened(name)}: median {four_digits(float(middle))}, n {len(numbers)}{note}"
        _row_name(axis, i - 0.3, words)
    _rows(axis, len(known), label, limits)
    return svg(figure)


def intervals(
    values: Mapping[str, tuple[float, float, float]], label: str, *, reference: float | None = None
) -> bytes:
    """A mark with its interval per row: means with confidence intervals or deviations.

    Parameters
    ----------
    values : mapping name -> (value, low, high)
        An interval with NaN is not drawn.
    label : str
        Below the axis.
    reference : float or None
        A dotted line, such as a baseline's value.
    """
    known = {name: triple for name, triple in values.items() if np.isfinite(triple[0])}
    figure, (axis,) = canvas(height=0.7 + 0.42 * max(1, len(known)))
    if reference is not None:
        axis.axvline(reference, color=SOFT, linestyle=":", linewidth=1)
    for i, (name, (value, low, high)) in enumerate(known.items()):
        if np.isfinite(low) and np.isfinite(high):
            axis.plot(
                [low, high], [i, i], color=SERIES[i % len(SERIES)], linewidth=2.4, solid_capstyle="butt"
            )
        axis.plot([value], [i], marker="o", markersize=6, color=SERIES[i % len(SERIES)])
        words = f"{shortened(name)}: {four_digits(float(value))}"
        _row_name(axis, i - 0.18, words)
    _rows(axis, len(known), label, None)
    return svg(figure)


def curves(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]], x_label: str, y_label: str, *, log: bool = False
) -> bytes:
    """Lines, such as losses over steps.

    Parameters
    ----------
    series : mapping name -> (x (N,), y (N,))
    x_label, y_label : str
    log : bool
        A logarithmic y axis; values that are not positive are left out.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    labels = [shortened(name) for name in series]
    figure, (axis,) = canvas(height=2.8 + _legend_height(labels))
    for i, (x, y) in enumerate(series.values()):
        across, up = np.asarray(x, np.float64), np.asarray(y, np.float64)
        kept = np.isfinite(across) & np.isfinite(up) & ((up > 0) | (not log))
        axis.plot(
            across[kept], up[kept], color=SERIES[i % len(SERIES)], linewidth=1.4,
            linestyle=_DASHES[i // len(SERIES) % len(_DASHES)], label=labels[i],
            marker="o" if kept.sum() <= 12 else None, markersize=3,
        )  # fmt: skip
    if log:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(True, axis="y")
    _legend(axis)
    return svg(figure)


def scatter(
    points: ArrayLike, groups: Sequence[str], origins: Sequence[str], labels: tuple[str, str] = ("", "")
) -> bytes:
    """Points in the plane, such as embeddings in two dimensions, by group and origin.

    Parameters
    ----------
    points : array (N, 2)
    groups : sequence of str (N,)
        The group gives colour and form.
    origins : sequence of str (N,)
        Points of the first origin are filled, of any other hollow.
    labels : (str, str)
        Of the axes; without numbers where they are empty.
    """
    positions = np.asarray(points, np.float64)
    names, kinds = list(dict.fromkeys(groups)), list(dict.fromkeys(origins))
    of_group, of_origin = (
        np.array([names.index(g) for g in groups]),
        np.array([kinds.index(o) for o in origins]),
    )
    kept, note = _thinned(np.flatnonzero(np.isfinite(positions).all(1)))
    figure, (axis,) = canvas(height=3.7 + _legend_height([shortened(name) for name in names + kinds]))
    for g, name in enumerate(names):
        colour, marker = SERIES[g % len(SERIES)], _MARKERS[g // len(SERIES) % len(_MARKERS)]
        for o in range(len(kinds)):
            chosen = kept[(of_group[kept] == g) & (of_origin[kept] == o)]
            look: dict[str, Any] = {"color": colour, "linewidths": 0} if o == 0 else {
                "facecolors": "none", "edgecolors": colour, "linewidths": 0.9
            }  # fmt: skip
            across, up = positions[chosen].T
            axis.scatter(across, up, s=14, marker=marker, alpha=0.8, **look)
        axis.scatter([], [], s=22, marker=marker, color=colour, linewidths=0, label=shortened(name))
    for o, name in enumerate(kinds if len(kinds) > 1 else ()):
        axis.scatter(
            [], [], s=22, marker="o", facecolors=SOFT if o == 0 else "none", edgecolors=SOFT,
            label=shortened(name),
        )  # fmt: skip
    axis.set_xlabel("\n".join(part for part in (labels[0], note.removeprefix(", ")) if part))
    axis.set_ylabel(labels[1])
    if not any(labels):
        axis.set_xticks([])
        axis.set_yticks([])
    _legend(axis)
    return svg(figure)


def matrix(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    axes: tuple[str, str] = ("", ""),
) -> bytes:
    """A matrix as coloured squares with its numbers: Figure 3 of the MSDM paper.

    Where every column has the name of a row, columns are numbered as the rows are. Squares whose row and
    column have one name are framed.

    Parameters
    ----------
    values : array (R, C)
        NaN is an empty square.
    rows, columns : sequence of str
    label : str
        What the numbers are, with their unit.
    axes : (str, str)
        What rows and columns are, such as ``("real", "synthetic")``.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    numbers = np.asarray(values, np.float64)
    same = set(columns) <= set(rows)
    names = [shortened(name, 30) + (f"  {i + 1}" if same else "") for i, name in enumerate(rows)]
    heads = [str(list(rows).index(name) + 1) if same else shortened(name, 24) for name in columns]
    side = 0.46  # inches
    margin = 0.5 + 0.075 * max((len(name) for name in names), default=0)
    top = 0.35 if same else 0.2 + 0.07 * max((len(head) for head in heads), default=0)
    width = max(WIDTH, margin + side * len(columns) + 0.9)
    figure, (axis,) = canvas(width, top + side * len(rows) + 0.5)
    finite = numbers[np.isfinite(numbers)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    scale, colours = Normalize(low, high if high > low else low + 1), colormaps["cividis"]
    for (i, j), value in np.ndenumerate(numbers):
        if not np.isfinite(value):
            axis.text(j, i, DASH, ha="center", va="center", color=SOFT)
            continue
        red, green, blue, _ = colours(scale(value))
        axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color=(red, green, blue), linewidth=0))
        dark = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.18
        ink = "#ffffff" if dark else "#0b0b0b"
        axis.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize=SIZE - 1, color=ink)
        if rows[i] == columns[j]:
            axis.add_patch(
                Rectangle((j - 0.45, i - 0.45), 0.9, 0.9, fill=False, edgecolor=ink, linewidth=1.5)
            )
    axis.set_xlim(-0.5, max(1, len(columns)) - 0.5)
    axis.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    axis.set_aspect("equal")
    axis.set_xticks(range(len(columns)), heads, rotation=0 if same else 60, ha="center" if same else "left")
    axis.set_yticks(range(len(rows)), names)
    axis.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)
    axis.set_ylabel(axes[0])
    axis.set_xlabel("\n".join(part for part in (axes[1], f"colour and number: {label}") if part))
    return svg(figure)


def _known(values: Mapping[str, ArrayLike]) -> dict[str, Numbers]:
    """The groups that have finite values, and these."""
    numbers = {name: np.asarray(group, np.float64).ravel() for name, group in values.items()}
    finite = {name: group[np.isfinite(group)] for name, group in numbers.items()}
    return {name: group for name, group in finite.items() if len(group)}


def _range(known: Mapping[str, Numbers]) -> tuple[float, float]:
    if not known:
        return 0.0, 1.0
    together = np.concatenate(list(known.values()))
    low, high = float(together.min()), float(np.quantile(together, 0.99))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _thinned(values: NDArray[Any]) -> tuple[NDArray[Any], str]:
    """At most `POINTS` of them, and what the figure says of that."""
    step = -(-len(values) // POINTS) or 1
    return values[::step], f", 1 point in {step} drawn" if step > 1 else ""


def _row_name(axis: "Axes", y: float, words: str) -> None:
    """Above a row, at the left end: to the left of the axis, long names would leave it no room."""
    axis.text(0, y, words, transform=axis.get_yaxis_transform(), fontsize=SIZE - 1, va="bottom")


def _rows(axis: "Axes", count: int, label: str, limits: tuple[float, float] | None) -> None:
    axis.set_ylim(count - 0.6, -0.75)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.grid(True, axis="x")
    axis.set_xlabel(label)
    if limits is not None:
        axis.set_xlim(*limits)


def _legend(axis: "Axes") -> None:
    """Above the axes, where it covers nothing."""
    handles, labels = axis.get_legend_handles_labels()
    if len(labels) > 1:
        axis.figure.legend(
            handles, labels, loc="outside upper left", ncols=_legend_columns(labels), frameon=False,
            fontsize=SIZE - 1, labelcolor=INK, handlelength=1.8, columnspacing=1.2,
        )  # fmt: skip


def _legend_columns(labels: Sequence[str]) -> int:
    longest = max(map(len, labels), default=0)
    return 3 if longest <= 12 else 2 if longest <= 24 else 1


def _legend_height(labels: Sequence[str]) -> float:
    """In inches."""
    return 0.17 * -(-len(labels) // _legend_columns(labels)) if len(labels) > 1 else 0.0
