"""The names that an expression over the fields of a data set may use."""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from ..core.errors import MsdmError, did_you_mean
from .properties import parse_property, property_names
from .terms import ColumnNumber, ColumnText, Compare, FieldNumber, Given, In, InstanceClass, Node

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_SHOWN = 8


@dataclass(frozen=True)
class Vocabulary:
    """The names that an expression may use.

    Attributes
    ----------
    columns : mapping column -> (bool, str)
        Whether every value that is there is a number, and one that is not, or else the first.
    kinds : tuple of str
        Kinds of mask.
    classes : mapping kind -> collection of str
        The classes of its instances, of kinds whose instances have any.
    """

    columns: Mapping[str, tuple[bool, str]]
    kinds: tuple[str, ...]
    classes: Mapping[str, Collection[str]] = field(default_factory=dict)

    @property
    def properties(self) -> list[str]:
        """The names of what is measured for a field."""
        return property_names(self.kinds)

    @classmethod
    def of(
        cls,
        rows: Sequence[Mapping[str, str]],
        kinds: tuple[str, ...],
        classes: Mapping[str, Collection[str]] | None = None,
    ) -> "Vocabulary":
        """The vocabulary of a manifest's rows: a column is of numbers where all that is not empty is one."""
        columns = {}
        for name in rows[0] if rows else ():
            values = [row[name] for row in rows if row[name].strip()]
            odd = next((value for value in values if not _is_number(value)), None)
            columns[name] = (bool(values) and odd is None, odd or (values[0] if values else ""))
        return cls(columns, kinds, classes or {})

    def column(self, name: str) -> ColumnNumber | ColumnText:
        """A column by its name.

        Raises
        ------
        MsdmError
            There is no such column.
        """
        if name not in self.columns:
            raise MsdmError(f"no column {name!r}; {did_you_mean(name, self.columns)}")
        return ColumnNumber(name) if self.columns[name][0] else ColumnText(name)

    def shadowed(self, names: Iterable[str]) -> list[str]:
        """Those of the names that are both a measured property, which is taken, and a column."""
        return [n for n in names if n in self.columns and parse_property(n, self.kinds) is not None]

    def name(self, name: str) -> Node:
        """A measured property, or else a column, by its name.

        Raises
        ------
        MsdmError
            It is neither.
        """
        if parse_property(name, self.kinds) is not None:
            return FieldNumber(name, self.kinds)
        if name in self.columns:
            return self.column(name)
        legal = [*self.columns, *self.properties]
        close = get_close_matches(name, legal, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        columns = ", ".join([*list(self.columns)[:_SHOWN], *(["..."] if len(self.columns) > _SHOWN else [])])
        raise MsdmError(
            f"no property {name!r}; {hint}legal: columns ({columns}), and of mask kinds "
            f"{', '.join(self.kinds) or '(none)'} such as count_KIND, mean_KIND_area; --list shows all"
        )

    def unknown_classes(self, node: Node) -> list[str]:
        """A note for each class that an expression compares with, and that no instance has."""
        notes = []
        for kind, name in dict.fromkeys(_compared(node)):
            known = self.classes.get(kind, ())
            if name and name not in known:
                notes.append(f"no {kind} has the class {name!r}; {did_you_mean(name, known)}")
        return notes


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


def _compared(node: object) -> Iterator[tuple[str, str]]:
    """Kinds, and the texts that the classes of their instances are compared with."""
    if isinstance(node, tuple):
        for part in node:
            yield from _compared(part)
    if not isinstance(node, Node):
        return
    if isinstance(node, Compare | In):
        sides = node.operands if isinstance(node, Compare) else (node.left,)
        given = node.listed if isinstance(node, In) else [n.given for n in sides if isinstance(n, Given)]
        for side in sides:
            if isinstance(side, InstanceClass):
                yield from ((side.kind, text) for text in given if isinstance(text, str))
    for part in vars(node).values():
        yield from _compared(part)
