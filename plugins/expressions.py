"""Expressions over the properties of a field, such as ``mean_cell_eccentricity > 0.85 and assay == 'HER2'``.

Of Python's syntax, comparisons, and, or, not, + - * /, numbers, quoted texts, lists after `in`, names and a
few functions are legal. An expression is read by `ast`, every node of the tree is checked against what is
legal, and nodes of `msdm_kit.plugins.terms` are made of it: nothing is ever executed.

All is checked before the first field is measured: names, and the type of every operand. A value that is
missing (an empty cell, the mean over no instances, a division by zero) makes a comparison false, whatever the
operator.
"""

import ast
import math
import re
import warnings
from collections.abc import Sequence
from textwrap import shorten

from ..core.errors import MsdmError, did_you_mean
from .properties import AGGREGATES, INSTANCE_PROPERTIES
from .terms import (
    COUNTS,
    Arithmetic,
    ColumnNumber,
    ColumnText,
    Compare,
    Given,
    In,
    InstanceClass,
    InstanceNumber,
    Logic,
    Node,
    Not,
    Over,
    Type,
)
from .vocabulary import Vocabulary

LONGEST = 100_000
"""Characters of an expression."""
DEEPEST = 100
"""Nodes within nodes."""
FUNCTIONS = (*COUNTS, *AGGREGATES)
CLASS = "class"
"""Of instances, beside `INSTANCE_PROPERTIES`: a text."""

_NEAR = 20
# quoted texts, which stay as they are, or the word class after a dot
_CLASS = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(\.\s*)class\b""")
# `class` is a keyword of Python. With the first letter in full width it is a name, which Python itself reads
# as `class` (NFKC): the tree has the right name, and every character its place.
_AS_NAME = "\N{FULLWIDTH LATIN SMALL LETTER C}lass"
_SIGNS: dict[type, str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/",
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
_LEGAL = "legal: comparisons, and, or, not, + - * /, numbers, quoted texts, lists after in, names, functions"


def compile_expression(text: str, vocabulary: Vocabulary) -> Node:
    """Read and check an expression.

    Parameters
    ----------
    text : str
    vocabulary : Vocabulary

    Returns
    -------
    Node
        A condition, a number or a text; `condition` and `number` ask for one of them.

    Raises
    ------
    MsdmError
        One line: what is wrong, at which character, what is legal.
    """
    line = " ".join(text.splitlines()).strip()
    if not line:
        raise MsdmError("the expression is empty; write such as \"count_nucleus > 20 and assay == 'HER2'\"")
    if len(line) > LONGEST:
        raise MsdmError(f"the expression has {len(line)} characters, and legal are {LONGEST}; shorten it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's advice on code that is never run
            parsed = _CLASS.sub(lambda found: found[1] or found[2] + _AS_NAME, line)
            tree = ast.parse(parsed, mode="eval")
        return _Reader(line, parsed, vocabulary).read(tree.body)
    except SyntaxError as error:
        raise MsdmError(_syntax(line, error)) from None
    except (RecursionError, MemoryError):
        raise MsdmError("the expression is nested too deeply to be read; simplify it") from None
    except ValueError as error:  # a null character, a number of thousands of digits
        raise MsdmError(f"the expression cannot be read: {error}; {_LEGAL}") from None


def names_classes(text: str | None) -> bool:
    """Whether an expression names the class of instances, such as ``nucleus.class``."""
    return text is not None and any(found[2] for found in _CLASS.finditer(text))


def condition(text: str, vocabulary: Vocabulary) -> Node:
    """An expression that is true or false.

    Raises
    ------
    MsdmError
        It is not, or as `compile_expression` raises.
    """
    node = compile_expression(text, vocabulary)
    if node.type != "condition":
        raise MsdmError(f"{text.strip()!r} is a {node.type}, no condition; compare it, such as with > or ==")
    return node


def number(text: str, vocabulary: Vocabulary) -> Node:
    """An expression that is a number.

    Raises
    ------
    MsdmError
        It is not, or as `compile_expression` raises.
    """
    node = compile_expression(text, vocabulary)
    if node.type != "number":
        raise MsdmError(f"{text.strip()!r} is a {node.type}, and here a number is needed, such as count_KIND")
    return node


def _syntax(line: str, error: SyntaxError) -> str:
    at = error.offset or len(line) + 1
    near = repr(line[at - 1 : at - 1 + _NEAR]) if at <= len(line) else "its end"
    what = (error.msg or "invalid syntax").split(". ")[0].split("; ")[0]
    advice = _LEGAL
    if re.search(r"&&|\|\|", line):
        advice = "write and, or"
    elif re.search(r"(?<![<>=!])=(?!=)", line):
        advice = "to compare, write =="
    elif re.search(r"![^=]", line):
        advice = "write not, or !="
    return f"the expression cannot be read at character {at}, near {near}: {what}; {advice}"


class _Reader:
    """From Python's syntax tree to terms, with the place of each mistake."""

    def __init__(self, line: str, parsed: str, vocabulary: Vocabulary) -> None:
        self.line = line
        self.parsed = parsed
        """The line with other characters in the same places."""
        self.vocabulary = vocabulary
        self.over: list[str] | None = None
        """Within a function over instances, the kinds that it names."""

    def read(self, tree: ast.expr, depth: int = 0) -> Node:
        if depth > DEEPEST:
            raise self.wrong(tree, f"it is more than {DEEPEST} levels deep; simplify it")
        match tree:
            case ast.BoolOp(op, values):
                parts = tuple(self.typed(value, "condition", depth) for value in values)
                return Logic("and" if isinstance(op, ast.And) else "or", parts)
            case ast.UnaryOp(ast.Not(), operand):
                return Not(self.typed(operand, "condition", depth))
            case ast.UnaryOp(ast.UAdd(), operand):
                return self.typed(operand, "number", depth)
            case ast.UnaryOp(ast.USub(), operand):
                node = self.typed(operand, "number", depth)
                if isinstance(node, Given):
                    return Given(-float(node.given))
                return Arithmetic("*", Given(-1.0), node)
            case ast.BinOp(left, op, right) if type(op) in _SIGNS:
                a, b = (self.typed(side, "number", depth) for side in (left, right))
                return Arithmetic(_SIGNS[type(op)], a, b)
            case ast.BinOp(_, ast.BitAnd() | ast.BitOr() as op, _):
                raise self.wrong(tree, f"write {'and' if isinstance(op, ast.BitAnd) else 'or'}, not the sign")
            case ast.Compare():
                return self.comparison(tree, depth)
            case ast.Constant(value):
                return Given(self.constant(tree, value))
            case ast.Name(name):
                return self.vocabulary.name(name)
            case ast.Attribute(ast.Name(kind), name):
                return self.instance(tree, kind, name)
            case ast.Call(ast.Name("column"), [ast.Constant(str(name))], []):
                return self.vocabulary.column(name)
            case ast.Call(ast.Name(function), arguments, []):
                return self.call(tree, function, arguments, depth)
        raise self.wrong(tree, f"{shorten(ast.unparse(tree), 40)!r} is not part of the language; {_LEGAL}")

    def wrong(self, tree: ast.expr, why: str) -> MsdmError:
        start = len(self.parsed.encode()[: tree.col_offset].decode(errors="ignore"))  # ast counts bytes
        near = self.line[start : start + _NEAR]
        return MsdmError(f"at character {start + 1} of the expression, near {near!r}: {why}")

    def typed(self, tree: ast.expr, wanted: Type, depth: int) -> Node:
        node = self.read(tree, depth + 1)
        if node.type == wanted:
            return node
        what = f"{ast.unparse(tree)} is a {node.type}, and a {wanted} is needed here"
        if isinstance(node, ColumnText) and wanted == "number":
            odd = self.vocabulary.columns[node.label][1]
            raise self.wrong(tree, f"{what}: the column holds texts, such as {odd!r}")
        advice = "; compare it, such as with > or ==" if wanted == "condition" else ""
        raise self.wrong(tree, what + advice)

    def constant(self, tree: ast.expr, value: object) -> float | str:
        if isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(
                tree, f"{value!r} is neither a number nor a quoted text; columns hold texts, such as 'true'"
            )
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if not math.isfinite(found):
            raise self.wrong(tree, "the number is too large")
        return found

    def instance(self, tree: ast.expr, kind: str, name: str) -> Node:
        if kind not in self.vocabulary.kinds:
            raise self.wrong(tree, f"no mask kind {kind!r}; {did_you_mean(kind, self.vocabulary.kinds)}")
        if name not in (*INSTANCE_PROPERTIES, CLASS):
            hint = did_you_mean(name, (*INSTANCE_PROPERTIES, CLASS))
            raise self.wrong(tree, f"no property {name!r} of instances; {hint}")
        if name == CLASS:
            return self.instance_class(tree, kind)
        if self.over is None:
            raise self.wrong(
                tree,
                f"{kind}.{name} has a value for every {kind}; write mean_{kind}_{name}, or a function such "
                f"as fraction({kind}.{name} > 0)",
            )
        self.over.append(kind)
        return InstanceNumber(kind, name)

    def instance_class(self, tree: ast.expr, kind: str) -> Node:
        if kind not in self.vocabulary.classes:
            there = ", ".join(sorted(self.vocabulary.classes)) or "no kind"
            raise self.wrong(tree, f"no {kind} has a class: instances.csv has classes of {there}")
        if self.over is None:
            one = min(self.vocabulary.classes[kind])
            raise self.wrong(
                tree,
                f"{kind}.class has a value for every {kind}; write it within a function, such as "
                f"fraction({kind}.class == {one!r})",
            )
        self.over.append(kind)
        return InstanceClass(kind)

    def call(self, tree: ast.expr, function: str, arguments: list[ast.expr], depth: int) -> Node:
        if function not in FUNCTIONS:
            hint = did_you_mean(function, (*FUNCTIONS, "column"))
            raise self.wrong(tree, f"no function {function!r}; {hint}")
        wanted: Type = "condition" if function in COUNTS else "number"
        if len(arguments) != 1:
            raise self.wrong(tree, f"{function} takes one {wanted}, and here are {len(arguments)} arguments")
        if self.over is not None:
            raise self.wrong(tree, f"{function} stands within another function; write it outside")
        kinds: list[str] = []
        self.over = kinds
        body = self.typed(arguments[0], wanted, depth)
        self.over = None
        if len(set(kinds)) != 1:
            found = f"those of {' and '.join(sorted(set(kinds)))}" if kinds else "none"
            raise self.wrong(
                tree, f"{function} is over the instances of one kind, such as cell.area, and it names {found}"
            )
        return Over(ast.unparse(tree), function, kinds[0], body)

    def comparison(self, tree: ast.Compare, depth: int) -> Node:
        if isinstance(tree.ops[0], ast.In | ast.NotIn):
            return self.membership(tree, depth)
        for op in tree.ops:
            if type(op) not in _SIGNS:
                raise self.wrong(tree, f"is, and in within a chain, are not part of the language; {_LEGAL}")
        sides = [tree.left, *tree.comparators]
        nodes = [self.read(side, depth + 1) for side in sides]
        signs = tuple(_SIGNS[type(op)] for op in tree.ops)
        for side, node in zip(sides, nodes, strict=True):
            if node.type == "condition":
                raise self.wrong(side, f"{ast.unparse(side)} is a condition; join it with and, or")
        if len({node.type for node in nodes}) == 1:
            return Compare(tuple(nodes), signs)
        texts = [self.as_text(side, node, nodes, signs) for side, node in zip(sides, nodes, strict=True)]
        return Compare(tuple(texts), signs)

    def as_text(self, side: ast.expr, node: Node, others: Sequence[Node], signs: Sequence[str]) -> Node:
        """A number among texts: a column of numbers is compared as it is written, for equality."""
        if node.type == "text":
            return node
        if isinstance(node, ColumnNumber):
            if set(signs) <= {"==", "!="}:
                return ColumnText(node.label)
            raise self.wrong(side, f"column {node.label!r} holds numbers; compare it with a number")
        other = next(other for other in others if other.type == "text")
        what = repr(other.given) if isinstance(other, Given) else other.label or "a class"
        if isinstance(other, ColumnText):
            what += f" holds texts, such as {self.vocabulary.columns[other.label][1]!r}"
        else:
            what += " is a text"
        raise self.wrong(side, f"{ast.unparse(side)} is a number, and {what}; compare like with like")

    def membership(self, tree: ast.Compare, depth: int) -> Node:
        wanted = "after in stands a list of numbers or of quoted texts, such as ['HER2', 'ER']"
        listed = tree.comparators[0]
        if len(tree.ops) > 1 or not isinstance(listed, ast.List | ast.Tuple | ast.Set) or not listed.elts:
            raise self.wrong(tree, wanted)
        nodes = [self.read(element, depth + 1) for element in listed.elts]
        given = tuple(node.given for node in nodes if isinstance(node, Given))
        if len(given) < len(nodes) or len({node.type for node in nodes}) != 1:
            raise self.wrong(listed, wanted)
        left = self.read(tree.left, depth + 1)
        if left.type == "condition":
            raise self.wrong(
                tree.left, f"{ast.unparse(tree.left)} is a condition; in takes a number or a text"
            )
        if left.type != nodes[0].type:
            left = self.as_text(tree.left, left, nodes, ("==",))
            if nodes[0].type == "number":
                raise self.wrong(listed, f"{ast.unparse(tree.left)} is a text; quote what is in the list")
        return In(left, given, isinstance(tree.ops[0], ast.NotIn))
