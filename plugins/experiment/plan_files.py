"""Plans on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...core.errors import MsdmError, did_you_mean
from ...core.reading import is_file
from ..host import Host, get_host
from ..recipe_schema import one_line
from ..recipe_yaml import dump, parse_override, read_mapping
from .plan import Plan


def find_plan(name: str, host: Host | None = None) -> Path:
    """The file of a plan.

    Parameters
    ----------
    name : str
        A plan that a plugin brings, such as ``quick``, or the path of a YAML file.
    host : Host or None

    Raises
    ------
    MsdmError
        It is neither.
    """
    host = host or get_host()
    names = host.names("plan")
    if name in names:
        return Path(host.load("plan", name))
    path = Path(name)
    if is_file(path):
        return path
    if path.suffix in (".yaml", ".yml"):
        raise MsdmError(f"plan {path}: no such file; give the path of a YAML file or a plan's name")
    raise MsdmError(
        f"no plan {name!r}; {did_you_mean(name, names)}; the path of a YAML file is legal as well"
    )


def load_plan(path: Path, overrides: Sequence[str] = ()) -> Plan:
    """A validated plan; what it names is checked later, by `protocol.open_protocol`.

    Parameters
    ----------
    path : Path
    overrides : sequence of str
        ``a.b=c``: a dotted path and a YAML value.

    Raises
    ------
    MsdmError
        The file cannot be read, or a key is unknown or its value illegal: with its dotted path.
    """
    data = read_mapping(path, "plan")
    data.setdefault("name", path.stem)
    for text in overrides:
        _assign(data, text)
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        raise MsdmError(f"plan {path}: {one_line(error, Plan)}") from None


def _assign(data: dict[str, Any], text: str) -> None:
    (*parents, last), value = parse_override(text, "generators.msdm.steps=1000")
    node = data
    for key in parents:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise MsdmError(f"--set {text!r}: {key} holds {node!r}, and has no keys; set it as a whole")
    node[last] = value


def dump_plan(plan: Plan) -> str:
    """A plan as YAML with every default."""
    return dump(plan.model_dump(mode="json"))
