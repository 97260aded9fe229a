"""What an expression is made of: nodes that give a number, a text or a condition for a field.

Numbers are float64, one or, within a function over instances, one per instance; NaN is missing. An empty text
is missing. A comparison with a missing value is false, and the field's `missing` is set.
"""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from .properties import AGGREGATES, Field, parse_property

Type = Literal["number", "text", "condition"]

ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
COUNTS: dict[str, Callable[[Any], Any]] = {
    "any": np.any,
    "all": np.all,
    "count": np.count_nonzero,
    "fraction": lambda flags: np.mean(flags) if flags.size else np.nan,
}
"""Functions of a condition on instances; `AGGREGATES` are those of a number."""


class Node(ABC):
    """A part of an expression.

    Attributes
    ----------
    type : {'number', 'text', 'condition'}
    label : str
        The name of what is measured; empty for what only reckons with it.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    """Attributes that hold nodes or tuples of nodes."""

    @property
    def type(self) -> Type:
        return "number"

    @property
    def label(self) -> str:
        return ""

    @abstractmethod
    def value(self, field: Field) -> Any:
        """For one field: float64, str or bool, or an array of one per instance."""

    def named(self) -> "Iterator[Node]":
        """The nodes with a label, in the order of the text; those within a function are part of it."""
        if self.label:
            yield self
            return
        for part in self.parts:
            held = getattr(self, part)
            for node in held if isinstance(held, tuple) else (held,):
                yield from node.named()


@dataclass(frozen=True)
class Given(Node):
    """A number or a text that is written in the expression."""

    given: float | str

    @property
    def type(self) -> Type:
        return "text" if isinstance(self.given, str) else "number"

    def value(self, field: Field) -> Any:
        return self.given if isinstance(self.given, str) else np.float64(self.given)


@dataclass(frozen=True)
class FieldNumber(Node):
    """A measured property of the field."""

    name: str
    kinds: tuple[str, ...]

    @property
    def label(self) -> str:
        return self.name

    def value(self, field: Field) -> Any:
        wanted = parse_property(self.name, self.kinds)
        assert wanted is not None  # checked where the node was made
        return np.float64(field.number(wanted))


@dataclass(frozen=True)
class ColumnNumber(Node):
    """A column of the manifest that holds numbers."""

    name: str

    @property
    def label(self) -> str:
        return self.name

    def value(self, field: Field) -> Any:
        text = field.row[self.name].strip()
        return np.float64(text) if text else np.float64("nan")


@dataclass(frozen=True)
class ColumnText(Node):
    """A column of the manifest as it is written."""

    name: str

    @property
    def label(self) -> str:
        return self.name

    @property
    def type(self) -> Type:
        return "text"

    def value(self, field: Field) -> Any:
        text = field.row[self.name]
        return text if text.strip() else ""


@dataclass(frozen=True)
class InstanceNumber(Node):
    """A property of every instance of a kind."""

    kind: str
    property: str

    def value(self, field: Field) -> Any:
        return field.instances(self.kind, self.property)


@dataclass(frozen=True)
class InstanceClass(Node):
    """The class of every instance of a kind; of one without a class an empty text, which is missing."""

    kind: str

    @property
    def type(self) -> Type:
        return "text"

    def value(self, field: Field) -> Any:
        return field.classes_of(self.kind)


@dataclass(frozen=True)
class Arithmetic(Node):
    """Two numbers make one; what is not finite, as after a division by zero, is missing."""

    sign: str
    left: Node
    right: Node
    parts: ClassVar[tuple[str, ...]] = ("left", "right")

    def value(self, field: Field) -> Any:
        with np.errstate(all="ignore"):
            found = ARITHMETIC[self.sign](self.left.value(field), self.right.value(field))
        return np.where(np.isfinite(found), found, np.nan)[()]


@dataclass(frozen=True)
class Compare(Node):
    """A chain such as ``0 < a <= b``; all operands are numbers, or all texts."""

    operands: tuple[Node, ...]
    signs: tuple[str, ...]
    parts: ClassVar[tuple[str, ...]] = ("operands",)

    @property
    def type(self) -> Type:
        return "condition"

    def value(self, field: Field) -> Any:
        values = [node.value(field) for node in self.operands]
        # Who writes '' asks for what is missing.
        asked = any(isinstance(node, Given) and node.given == "" for node in self.operands)
        result: Any = True
        for sign, a, b in zip(self.signs, values[:-1], values[1:], strict=True):
            there = True if asked else _there(a) & _there(b)
            if not np.all(there):
                field.missing = True
            result = result & np.asarray(COMPARISONS[sign](a, b)) & there
        return result


@dataclass(frozen=True)
class In(Node):
    """Whether a number or a text is one of a list."""

    left: Node
    listed: tuple[float | str, ...]
    negated: bool
    parts: ClassVar[tuple[str, ...]] = ("left",)

    @property
    def type(self) -> Type:
        return "condition"

    def value(self, field: Field) -> Any:
        left = self.left.value(field)
        there = _there(left) | ("" in self.listed)
        if not np.all(there):
            field.missing = True
        found = left in self.listed if isinstance(left, str) else np.isin(left, self.listed)
        return (np.asarray(found) != self.negated) & there


@dataclass(frozen=True)
class Logic(Node):
    """Conditions joined by ``and`` or by ``or``."""

    word: Literal["and", "or"]
    conditions: tuple[Node, ...]
    parts: ClassVar[tuple[str, ...]] = ("conditions",)

    @property
    def type(self) -> Type:
        return "condition"

    def value(self, field: Field) -> Any:
        join = np.logical_and if self.word == "and" else np.logical_or
        result = self.conditions[0].value(field)
        for node in self.conditions[1:]:
            result = join(result, node.value(field))
        return result


@dataclass(frozen=True)
class Not(Node):
    """The contrary of a condition."""

    condition: Node
    parts: ClassVar[tuple[str, ...]] = ("condition",)

    @property
    def type(self) -> Type:
        return "condition"

    def value(self, field: Field) -> Any:
        return np.logical_not(self.condition.value(field))


@dataclass(frozen=True)
class Over(Node):
    """A function of all instances of a kind: of a condition (`COUNTS`) or of a number (`AGGREGATES`)."""

    text: str
    function: str
    kind: str
    body: Node

    @property
    def label(self) -> str:
        return self.text

    @property
    def type(self) -> Type:
        return "condition" if self.function in ("any", "all") else "number"

    def value(self, field: Field) -> Any:
        instances = field.instances(self.kind, "area").size
        values = np.broadcast_to(np.asarray(self.body.value(field)), (instances,))
        if self.function in COUNTS:
            found = COUNTS[self.function](values)
            return found if self.type == "condition" else np.float64(found)
        there = values[~np.isnan(values)]
        if there.size < values.size:
            field.missing = True
        return np.float64(AGGREGATES[self.function](there)) if there.size else np.float64("nan")


def _there(value: Any) -> Any:
    texts = isinstance(value, str) or value.dtype.kind == "U"
    return np.asarray(value != "") if texts else ~np.isnan(value)
