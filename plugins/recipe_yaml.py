"""YAML as recipes use it: safe, bounded, without doubled keys, and with 1e-4 as a number."""

import re
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import MsdmError
from ..core.reading import read_text

# YAML 1.1 wants a point in a float and reads 1e-4 as text. YAML 1.2 does not.
_EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
_FLOAT = "tag:yaml.org,2002:float"
MOST_BYTES = 2**18
"""Of a file."""
_MOST_VALUES = 100_000
"""Keys and values of a text once its aliases are written out, which may be more than its characters."""
_DEEPEST = 40
_LONGEST_NUMBER = 64
"""Characters; what a number takes to be read grows faster than its length."""


class _Loader(yaml.SafeLoader):
    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        # what PyYAML does for each token grows with the number of open brackets
        if self.flow_level >= _DEEPEST:
            raise yaml.scanner.ScannerError(problem="nested too deeply", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(token)

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _values(node, {}, 0) > _MOST_VALUES:
            raise yaml.constructor.ConstructorError(
                problem=f"with its aliases written out it has more than {_MOST_VALUES} values",
                problem_mark=node.start_mark,
            )
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        try:
            if len(node.value) <= _LONGEST_NUMBER:
                whole = node.tag.endswith(":int")
                return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
            problem = f"a number of {len(node.value)} characters, and legal are {_LONGEST_NUMBER}"
        except (ValueError, OverflowError, IndexError) as error:
            problem = f"{node.value!r} is no number ({error})"
        raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key_node.value!r} stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes a next-line character (U+0085) bare, and folds it into a space on reading
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\x85" in text else None)


def _values(node: yaml.Node, known: dict[int, int | None], depth: int) -> int:
    """How many keys and values a node has once its aliases are written out.

    Parameters
    ----------
    node : yaml.Node
    known : dict
        The numbers of nodes that were counted, by `id`; None of those that are being counted.
    depth : int
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    if known.get(id(node), 0) is None or depth > _DEEPEST:
        within = "an alias within what it stands for" if depth <= _DEEPEST else "nested too deeply"
        raise yaml.constructor.ConstructorError(problem=within, problem_mark=node.start_mark)
    count = known.get(id(node))
    if count is None:
        known[id(node)] = None
        pairs = node.value if isinstance(node, yaml.MappingNode) else [(below,) for below in node.value]
        count = known[id(node)] = 1 + sum(
            _values(below, known, depth + 1) for pair in pairs for below in pair
        )
    return count


_Dumper.add_representer(str, _text)
for _tag in ("tag:yaml.org,2002:int", _FLOAT):
    _Loader.add_constructor(_tag, _Loader.construct_number)
_Loader.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+0123456789"))
# The dumper quotes text that would be read as something else only where it knows of it.
_Dumper.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+0123456789"))


def parse(text: str, where: str) -> Any:
    """The value of a YAML text.

    Parameters
    ----------
    text : str
    where : str
        How the error calls the text, such as ``recipe mine.yaml``.

    Raises
    ------
    MsdmError
        The text is no YAML; with line and column.
    """
    # A safe loader: it makes plain values only.
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = error.problem or error.context or "not legal YAML"
        raise MsdmError(f"{where}: {place}{' '.join(reason.split())}; mend the YAML there") from error
    except RecursionError:
        raise MsdmError(f"{where}: nested too deeply; a recipe is a few levels deep") from None
    except (TypeError, AttributeError, LookupError):  # of PyYAML's constructors: !!set on a list, say
        raise MsdmError(f"{where}: a tag (!!...) is on a value of another type; take the tag out") from None
    except (yaml.YAMLError, ValueError) as error:
        raise MsdmError(f"{where}: not legal YAML: {' '.join(str(error).split())}") from error
    finally:
        if loader is not None:
            loader.dispose()


def read_mapping(path: Path, what: str = "recipe") -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Parameters
    ----------
    path : Path
    what : str
        How errors call such a file, such as ``plan``.

    Raises
    ------
    MsdmError
        The file cannot be read, is no YAML, or holds something else than a mapping.
    """
    try:
        text = read_text(path, MOST_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise MsdmError(f"{what} {path}: cannot be read: {reason}; give a YAML file") from error
    value = parse(text, f"{what} {path}")
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        found = "nothing" if value is None else type(value).__name__
        raise MsdmError(f"{what} {path}: holds {found}; a {what} is a mapping of sections")
    return value


def parse_override(text: str, example: str) -> tuple[list[str], Any]:
    """The dotted path and the value of an override on the command line.

    Parameters
    ----------
    text : str
        ``KEY.KEY=VALUE``, the value in YAML.
    example : str
        For the message.

    Raises
    ------
    MsdmError
        The text is of another form, or its value is no YAML.
    """
    dotted, equals, value = text.partition("=")
    path = dotted.strip().split(".")
    if not equals or not value.strip() or not all(path):
        raise MsdmError(f"--set {text!r}: write KEY.KEY=VALUE, such as {example}")
    return path, parse(value, f"--set {text!r}")


def dump(value: Any) -> str:
    """A value as YAML that `parse` reads back equal; keys keep their order."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100))
