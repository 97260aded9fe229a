"""What a report holds. `msdm_kit.plugins.report.html` writes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A drawing or a picture.

    Attributes
    ----------
    title, caption : str
        Plain text; the caption says what is seen and how it is to be read.
    alt : str
        The same for who cannot see it: what the figure shows, in words and numbers.
    content : bytes
        PNG, or SVG as matplotlib writes it.
    """

    title: str
    caption: str
    alt: str
    content: bytes


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes
    ----------
    title, note : str
        Plain text. The note says units, rules and the meaning of marks.
    columns : sequence of str
    rows : sequence of rows
        Each as long as `columns`; of str, int, float or None. Floats are shown with four significant digits.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with text, figures and tables below it, in this order."""

    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Report:
    """One page.

    Attributes
    ----------
    title : str
    summary : sequence of str
        Paragraphs of plain text: what was found, first.
    warnings : sequence of str
        What a reader must know before he trusts a number.
    sections : sequence of Section
    settings, provenance : mapping
        Nested mappings, lists and plain values; shown last. Provenance: versions, hashes, command, time.
    """

    title: str
    summary: Sequence[str] = ()
    warnings: Sequence[str] = ()
    sections: Sequence[Section] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
