"""What there is to know of one plugin: its settings, what it reads and emits, where it can enter."""

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ..core.autoencoder import Autoencoder
from ..core.conditioning import Conditioner
from ..core.errors import MsdmError, did_you_mean
from ..core.injection import Injector
from .descriptor import Plugin
from .hookspecs import KINDS
from .host import Host, Origin, Row, get_host


@dataclass(frozen=True)
class Setting:
    """One key of a plugin's settings, as text.

    Attributes
    ----------
    key : str
    legal : str
        Types, legal values and limits, such as ``integer, at least 1``.
    default : str
        In JSON; ``required`` where there is none.
    description : str
    """

    key: str
    legal: str
    default: str
    description: str


@dataclass(frozen=True)
class Facts:
    """A plugin in words.

    Attributes
    ----------
    kind : str
    plugin : Plugin
    origin : Origin
    settings : list of Setting
    lines : dict of str -> str
        What else there is to say, by its title.
    """

    kind: str
    plugin: Plugin
    origin: Origin
    settings: list[Setting] = field(default_factory=list)
    lines: dict[str, str] = field(default_factory=dict)


def find_plugin(what: str, name: str | None = None, host: Host | None = None) -> tuple[str, str]:
    """The kind and the name that ``NAME`` or ``KIND NAME`` means.

    Parameters
    ----------
    what : str
        A kind if there is a `name`, else a name.
    name : str or None
    host : Host or None
        None is the host of this process.

    Raises
    ------
    MsdmError
        There is none, it is left out, or several kinds have one of that name.
    """
    host = host or get_host()
    if name is not None:
        kind = what.replace("-", "_")
        host.get(kind, name)
        return kind, name
    name = what
    kinds = [kind for kind in KINDS if name in host.names(kind)]
    if len(kinds) == 1:
        return kinds[0], name
    if kinds:
        raise MsdmError(
            f"{name!r} is of several kinds: {', '.join(kinds)}; say which: plugins show {kinds[0]} {name}"
        )
    out: list[Row] = [row for row in host.listing() if name in (row.name, row.package) and not row.usable]
    if out:
        row = out[0]
        raise MsdmError(f"{row.kind} {name!r} of {row.package} {row.version} is left out: {row.state}")
    every = {known for kind in KINDS for known in host.names(kind)}
    close = did_you_mean(name, every).partition("legal: ")[0]
    raise MsdmError(f"no plugin {name!r}; {close}msdm-kit plugins lists all")


def plugin_facts(kind: str, name: str, host: Host | None = None) -> Facts:
    """All that a plugin says of itself.

    Parameters
    ----------
    kind, name : str
    host : Host or None
        None is the host of this process.

    Raises
    ------
    MsdmError
        There is no such plugin, or it does not load.
    """
    host = host or get_host()
    plugin, loaded = host.get(kind, name), host.load(kind, name)
    model = host.config(kind, name)
    lines: dict[str, str] = {}
    if plugin.source:
        lines["source"] = plugin.source
    if isinstance(loaded, type) and issubclass(loaded, Conditioner):
        lines["reads"] = ", ".join(sorted(loaded.reads)) or "nothing"
        lines |= _emits(loaded, model, host)
    elif isinstance(loaded, type) and issubclass(loaded, Injector):
        lines["takes"] = ", ".join(sorted(loaded.accepts))
        lines["sites"] = ", ".join(sorted(loaded.site_kinds))
    elif isinstance(loaded, type) and issubclass(loaded, Autoencoder):
        lines |= _latents(loaded, model)
    elif isinstance(loaded, Path):
        lines["file"] = str(loaded)
    if not isinstance(loaded, Path):
        lines["class" if isinstance(loaded, type) else "object"] = _where(loaded)
    settings = _settings(model) if isinstance(model, type) and issubclass(model, BaseModel) else []
    return Facts(kind, plugin, host.origin(kind, name), settings, lines)


def _emits(cls: type[Conditioner], model: Any, host: Host) -> dict[str, str]:
    """The form of a condition of default settings, and the injectors that take it.

    The form belongs to a built condition, as it can depend on settings and on the training set: one is built
    without memory, of settings and a manifest that are made up where they are needed.
    """
    import torch

    try:
        needed = [key for key, field in model.model_fields.items() if field.is_required()]
        config = model.model_validate(dict.fromkeys(needed, "x"))
        # whatever column a setting may name
        row = dict.fromkeys(re.findall(r"\w+", config.model_dump_json()), "x")
        facts = cls.fit(config, [row])
        with torch.device("meta"):
            spec = cls(config, facts).spec
    except Exception:
        return {"emits": "what its settings and the data say"}
    takers = [
        name
        for name in host.names("injector")
        if spec.kind in getattr(_quietly(host, "injector", name), "accepts", ())
    ]
    return {
        "emits": f"{spec.kind}, {spec.width} wide at the default settings",
        "injectors": ", ".join(takers) or "none",
    }


def _latents(cls: type[Autoencoder], model: Any) -> dict[str, str]:
    """The form of the latents at the default settings, where it has any."""
    try:
        made = cls(model())
    except Exception:  # it needs settings, or weights that are not here
        return {"latents": "what its settings and weights say"}
    square = f"squares of {made.stride} x {made.stride} pixels"
    return {"latents": f"{made.channels} channels of {square} at the default settings"}


def _quietly(host: Host, kind: str, name: str) -> Any:
    try:
        return host.load(kind, name)
    except MsdmError:
        return None


def _where(loaded: Any) -> str:
    thing = loaded if inspect.isclass(loaded) or inspect.isfunction(loaded) else type(loaded)
    return f"{thing.__module__}.{thing.__qualname__}"


def _settings(model: type[BaseModel]) -> list[Setting]:
    schema = model.model_json_schema(by_alias=True)
    definitions = schema.get("$defs", {})
    found = []
    for key, value in schema.get("properties", {}).items():
        required = key in schema.get("required", ())
        default = "required" if required else _plain(value.get("default", PydanticUndefined))
        found.append(Setting(key, _legal(value, definitions), default, value.get("description", "")))
    return found


def _plain(value: Any) -> str:
    return "" if value is PydanticUndefined else json.dumps(value, ensure_ascii=False)


_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters",
    "minItems": "at least {} of them",
    "maxItems": "at most {} of them",
    "pattern": "like {}",
}


def _legal(value: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in value:
        name = str(value["$ref"]).rpartition("/")[2]
        return _legal(definitions.get(name, {}), definitions) if name in definitions else name
    if "enum" in value or "const" in value:
        return " | ".join(_plain(v).strip('"') for v in value.get("enum", [value.get("const")]))
    if "anyOf" in value:
        return " | ".join(_legal(part, definitions) for part in value["anyOf"])
    kind = str(value.get("type", "any"))
    if kind == "object" and "properties" in value:
        kind = "{" + ", ".join(value["properties"]) + "}"
    if parts := value.get("prefixItems"):
        return f"list of {', '.join(_legal(part, definitions) for part in parts)}"
    if kind == "array":
        kind = f"list of {_legal(value.get('items') or {}, definitions)}"
    limits = [text.format(value[key]) for key, text in _LIMITS.items() if key in value]
    if value.get("minLength") == 1 or value.get("minItems") == 1:
        limits[:] = ["not empty" if text.startswith("at least 1 ") else text for text in limits]
    return ", ".join([kind, *limits])
