"""The recipe's schema, walked by dotted paths, and its validation errors as one line."""

import re
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..core.errors import did_you_mean

UNKNOWN = object()


def _members(kind: Any) -> list[Any]:
    """The parts of a union; a type that is none is its own only part."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [member for part in get_args(kind) for member in _members(part)]
    return [kind]


def _models(kind: Any) -> list[type[BaseModel]]:
    return [m for m in _members(kind) if isinstance(m, type) and issubclass(m, BaseModel)]


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def step(kind: Any, key: str) -> Any:
    """The type that stands below `kind` under `key`, or `UNKNOWN`.

    Parameters
    ----------
    kind : type
        A model, a mapping, a sequence, or a union of such.
    key : str
        A field (by its alias where it has one), a key, or an index.
    """
    for model in _models(kind):
        if key in _fields(model):
            return _fields(model)[key]
        if model.model_config.get("extra") == "allow":
            return Any
    for member in _members(kind):
        if member is Any:
            return Any
        if get_origin(member) is dict:
            return get_args(member)[1]
        if get_origin(member) in (tuple, list) and key.isdigit():
            return get_args(member)[0]
    return UNKNOWN


def legal_keys(kind: Any) -> list[str]:
    """The fields of a model; nothing where there is no model."""
    return sorted({name for model in _models(kind) for name in _fields(model)})


def holds_entries(kind: Any) -> bool:
    """Whether `kind` maps free names to models, as `conditioners` does."""
    return any(get_origin(m) is dict and _models(get_args(m)[1]) for m in _members(kind))


def nullable(kind: Any) -> bool:
    """Whether null is a value of `kind`, rather than the absence of one."""
    return type(None) in _members(kind)


def one_line(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """The first of pydantic's errors in one line, and the number of the other places.

    Parameters
    ----------
    error : ValidationError
    model : type of BaseModel
        What was validated.
    prefix : str
        The dotted path at which `model` stands.

    Returns
    -------
    str
        ``train.lrate: unknown key; did you mean 'lr'? legal: ... (+2 more)``
    """
    details = error.errors(include_url=False)
    # A misspelt key often makes the right one "missing" as well: name the cause before the effect. Of a union
    # every member complains: the one that got deepest was meant.
    details.sort(key=lambda d: (d["type"] != "extra_forbidden", -len(d["loc"])))
    described = [_describe(detail, model) for detail in details]
    path, text = described[0]
    where = ".".join(part for part in (prefix, path) if part)
    others = {p for p, _ in described if not path.startswith(p)}
    more = f" (+{len(others)} more)" if others else ""
    return " ".join(f"{where + ': ' if where else ''}{text}{more}".split())


def _describe(detail: ErrorDetails, model: type[BaseModel]) -> tuple[str, str]:
    kind: Any = model
    parts: list[str] = []
    for part in detail["loc"]:
        below = step(kind, str(part))
        if below is UNKNOWN and detail["type"] != "extra_forbidden":
            break  # pydantic names the members of a union in its path: they are no keys
        if get_origin(kind) in (Union, types.UnionType) and str(part).startswith(("float", "dict[")):
            continue
        parts.append(str(part))
        if below is UNKNOWN:
            break
        kind = below
    path, got = ".".join(parts), detail.get("input")
    if detail["type"] == "extra_forbidden":
        return path, f"unknown key; {did_you_mean(parts[-1], legal_keys(kind))}"
    if detail["type"] == "missing":
        return path, "missing; give it"
    if detail["type"] == "literal_error":
        legal = re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected", "")))
        return path, f"{got!r} is not legal; {did_you_mean(str(got), legal)}"
    text = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return path, text
    shown = type(got).__name__ if isinstance(got, Mapping) else _short(got)
    return path, f"{text[:1].lower()}{text[1:]}; got {shown}"


def _short(value: Any) -> str:
    text = repr(list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
