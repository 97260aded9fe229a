"""A report as one HTML file that needs nothing else: no network, no script, no other file."""

import base64
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import MsdmError
from ...core.files import write_text
from .drawing import Drawing, read_svg
from .numbers import DASH, cell, is_number, plain, settings_rows
from .page import Figure, Report, Table

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

_PNG = b"\x89PNG\r\n\x1a\n"
_WIDE = 560
"""Figures that are wider, in pixels, take the page's whole width."""
_NUMBERS = re.compile(r"[-+<]?\d[^A-Za-z]*")
_NAVIGATED = 3
"""Sections from which on a page begins with a list of them."""


@dataclass(frozen=True)
class _Shown:
    """A figure as the template shows it."""

    number: int
    figure: Figure
    width: int
    markup: "Markup"
    follows_theme: bool

    @property
    def wide(self) -> bool:
        return self.width > _WIDE


@dataclass(frozen=True)
class _Listed:
    """A table as the template shows it: rows of text, and whether each column is one of numbers."""

    number: int
    title: str
    note: str
    columns: list[tuple[str, bool]]
    rows: list[list[str]]


def write_report(path: str | Path, report: Report) -> None:
    """Write a report.

    Parameters
    ----------
    path : path
        A file that is there is replaced, when the new one is complete.
    report : Report

    Raises
    ------
    MsdmError
        As `render`, or the file cannot be written.
    """
    write_text(path, render(report))


def render(report: Report) -> str:
    """A report as HTML.

    All text is escaped, drawings are read and written anew with what is harmless in them, and a content
    security policy forbids scripts and requests. The same report gives the same text.

    Parameters
    ----------
    report : Report

    Returns
    -------
    str

    Raises
    ------
    MsdmError
        A figure is neither PNG nor SVG, or a table's row is not as long as its columns.
    """
    figures = tables = 0
    sections = []
    for section in report.sections:
        shown = [_show(figure, figures + i + 1) for i, figure in enumerate(section.figures)]
        listed = [_list(table, tables + i + 1) for i, table in enumerate(section.tables)]
        figures, tables = figures + len(shown), tables + len(listed)
        sections.append({"title": section.title, "text": section.text, "figures": shown, "tables": listed})
    last: list[tuple[str, str, Mapping[str, Any]]] = [
        ("settings", "Settings", report.settings),
        ("provenance", "Provenance", report.provenance),
    ]
    page = _template().render(
        title=report.title,
        summary=report.summary,
        warnings=report.warnings,
        sections=sections,
        navigated=len(sections) >= _NAVIGATED,
        appendix=[(id, title, settings_rows(values)) for id, title, values in last if values],
    )
    # half of a character, as in the name of a file that is not UTF-8, cannot be written
    return page.encode("utf-8", "replace").decode("utf-8")


@cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    text = resources.files(__package__).joinpath("../templates/report.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)


def _show(figure: Figure, number: int) -> _Shown:
    from markupsafe import Markup

    if figure.content.startswith(_PNG):
        width, height = _png_size(figure)
        data = base64.b64encode(figure.content).decode()
        picture = Markup('<img src="data:image/png;base64,{}" width="{}" height="{}" alt="{}">').format(
            data, width, height, figure.alt
        )
        return _Shown(number, figure, width, picture, False)
    drawing: Drawing = read_svg(figure.content, figure.title, prefix=f"f{number}-")
    opening = Markup('<svg viewBox="{}" role="img" aria-label="{}">').format(drawing.view_box, figure.alt)
    svg = opening + Markup(drawing.inner) + Markup("</svg>")
    return _Shown(number, figure, drawing.width, svg, drawing.follows_theme)


def _png_size(figure: Figure) -> tuple[int, int]:
    if len(figure.content) < 24:
        raise MsdmError(f"the picture of figure {figure.title!r} is a damaged PNG; write it anew")
    width, height = struct.unpack(">II", figure.content[16:24])
    return width, height


def _list(table: Table, number: int) -> _Listed:
    width = len(table.columns)
    rows = [[plain(value) for value in row] for row in table.rows]
    for row in rows:
        if len(row) != width:
            raise MsdmError(
                f"table {table.title!r} has {width} columns and a row of {len(row)} values; "
                f"give one value per column"
            )
    numeric = [_numeric([row[i] for row in rows]) for i in range(width)]
    columns = list(zip(table.columns, numeric, strict=True))
    return _Listed(number, table.title, table.note, columns, [[cell(v) for v in row] for row in rows])


def _numeric(values: list[Any]) -> bool:
    """Whether a column is one of numbers, or of text such as ``0.83 ± 0.01``."""
    known = [value for value in values if value not in (None, "", DASH)]
    return bool(known) and all(
        is_number(value) or (isinstance(value, str) and _NUMBERS.fullmatch(value)) for value in known
    )
