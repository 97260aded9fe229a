"""Recipes on disk: presets and files that extend one another, overrides, and the way back to YAML."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..core.errors import MsdmError, did_you_mean
from ..core.reading import is_file
from ..core.recipe import ConditionerEntry, InjectorEntry, Recipe
from .host import Host, get_host
from .recipe_schema import UNKNOWN, holds_entries, legal_keys, nullable, one_line, step
from .recipe_yaml import dump, parse_override, read_mapping

_LABELS = ("name", "summary", "reference")
# What an entry keeps when another plugin takes its place: these settings are not the plugin's.
_KEPT = {f.alias or n for e in (ConditionerEntry, InjectorEntry) for n, f in e.model_fields.items()} - {
    "type"
}


def load_recipe(
    name_or_path: str | Path, overrides: Sequence[str] = (), *, host: Host | None = None
) -> Recipe:
    """A validated recipe.

    Settings of plugins are checked later, by `msdm_kit.plugins.check.check_plugins`.

    Parameters
    ----------
    name_or_path : str or Path
        A preset's name, or the path of a YAML file.
    overrides : sequence of str
        ``a.b=c``: a dotted path (an index in a list) and a YAML value. ``null`` deletes a key, or is the
        value where the schema gives null a meaning (``train.clip``).
    host : Host or None
        Where presets are looked up; None is the host of this process.

    Returns
    -------
    Recipe

    Raises
    ------
    MsdmError
        Unknown preset, unreadable file, unknown key, illegal value, or a cycle of ``extends``.
    """
    data = resolve_recipe_dict(name_or_path, overrides, host=host)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise MsdmError(f"recipe {data.get('name', name_or_path)}: {one_line(error, Recipe)}") from error


def resolve_recipe_dict(
    name_or_path: str | Path, overrides: Sequence[str] = (), *, host: Host | None = None
) -> dict[str, Any]:
    """A recipe with all it extends and all overrides, before validation.

    Mappings merge deeply, lists replace, null deletes what the parent gave. An entry that names another
    `type` than its parent's loses the settings of the parent's plugin. `name` and `summary` are not
    inherited; a file without `name` is called after itself.

    Raises
    ------
    MsdmError
        As `load_recipe`, without the errors of validation.
    """
    data = _read(_locate(name_or_path, None, host or get_host()), (), host or get_host())
    example = "train.lr=1e-4 (null deletes a key)"
    parsed = [(text, *parse_override(text, example)) for text in overrides]
    # Another type clears the settings of the old one, so it comes before the new one's settings.
    for text, path, value in sorted(parsed, key=lambda override: override[1][-1] != "type"):
        _assign(data, text, path, value)
    return data


def dump_recipe(recipe: Recipe) -> str:
    """A recipe as YAML, with every default written out. `load_recipe` reads it back equal."""
    return dump(_plain(recipe))


def differences(a: Recipe, b: Recipe) -> list[str]:
    """What sets two recipes apart, leaving out their name, summary and reference.

    Returns
    -------
    list of str
        ``train.lr: 0.0001 -> 0.0005``, by dotted key in the order of the schema.
    """
    left, right = (dict(_leaves(_plain(recipe))) for recipe in (a, b))
    sections = list(Recipe.model_fields)
    keys = [key for key in {**left, **right} if key not in _LABELS]
    keys.sort(key=lambda key: sections.index(key.partition(".")[0]))
    shown = {key: (repr(left.get(key, _ABSENT)), repr(right.get(key, _ABSENT))) for key in keys}
    return [f"{key}: {old} -> {new}" for key, (old, new) in shown.items() if old != new]


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


_ABSENT = _Absent()


def _plain(recipe: Recipe) -> dict[str, Any]:
    data = recipe.model_dump(mode="json", by_alias=True)
    data["train"] = {k: v for k, v in data["train"].items() if v is not None or k not in ("steps", "epochs")}
    return data


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted path; a list of plain values is one setting."""
    items: list[tuple[Any, Any]] | None = None
    if isinstance(value, Mapping) and value:
        items = list(value.items())
    elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
        items = list(enumerate(value))
    if items is None:
        yield path, value
        return
    for key, below in items:
        yield from _leaves(below, f"{path}.{key}" if path else str(key))


def _locate(name: str | Path, beside: Path | None, host: Host) -> Path:
    """The file of a preset or a path; a relative path in `extends` counts from the file that says so."""
    text = str(name)
    if isinstance(name, str) and name in host.names("recipe"):
        return Path(host.load("recipe", name))
    path = Path(text) if beside is None else beside.parent / text
    if isinstance(name, Path) or path.suffix in (".yaml", ".yml") or is_file(path):
        if not is_file(path):
            raise MsdmError(f"recipe {path}: no such file; give the path of a YAML file or a preset's name")
        return path
    hint = did_you_mean(text, host.names("recipe"))
    raise MsdmError(f"no recipe {text!r}; {hint}; the path of a YAML file is legal as well")


def _read(path: Path, below: tuple[Path, ...], host: Host) -> dict[str, Any]:
    here = path.resolve()
    if here in below:
        chain = " -> ".join(p.name for p in (*below, here))
        raise MsdmError(f"recipe {below[0]}: extends itself: {chain}; take one `extends` out")
    data = read_mapping(path)
    data.setdefault("name", path.stem)
    if "extends" not in data:
        return data
    parent = data.pop("extends")
    if not isinstance(parent, str):
        raise MsdmError(f"recipe {path}: extends: give one preset's name or one path; got {parent!r}")
    base = _read(_locate(parent, path, host), (*below, here), host)
    merged = _merge({k: v for k, v in base.items() if k not in ("name", "summary")}, data, Recipe)
    return {"name": merged.pop("name"), **merged}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    merged = dict(base)
    if "type" in base and "type" in over and base["type"] != over["type"]:
        merged = {k: v for k, v in base.items() if k in _KEPT}
    for key, value in over.items():
        below = step(kind, str(key))
        if value is None and key in base and not nullable(below):
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value, below)
        else:
            merged[key] = value
    return merged


def _assign(data: dict[str, Any], text: str, path: list[str], value: Any) -> None:
    node: Any = data
    kind: Any = Recipe
    for i, key in enumerate(path):
        last = i == len(path) - 1
        where = f"--set {text!r}: no key {key!r} in {'.'.join(path[:i]) or 'the recipe'}"
        below = step(kind, key)
        if below is UNKNOWN:
            raise MsdmError(f"{where}; {did_you_mean(key, legal_keys(kind))}")
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise MsdmError(f"{where}; legal: 0 to {len(node) - 1}" if node else f"{where}; it is empty")
            at: Any = int(key)
        else:
            at = key
            if key not in node and holds_entries(kind) and not (last and isinstance(value, dict)):
                raise MsdmError(f"{where}; {did_you_mean(key, node)}")
        if last:
            break
        if isinstance(node, dict) and not isinstance(node.get(key), dict | list):
            node[key] = {}
        node, kind = node[at], below
        if not isinstance(node, dict | list):
            raise MsdmError(f"--set {text!r}: {'.'.join(path[: i + 1])} holds {node!r}, and has no keys")
    if value is None and not nullable(below):
        if isinstance(node, list) or at in node:
            del node[at]
    elif isinstance(node, dict) and isinstance(node.get(at), dict) and isinstance(value, dict):
        node[at] = _merge(node[at], value, below)
    elif isinstance(node, dict) and at == "type" and node.get("type", value) != value:
        for old in [k for k in node if k not in _KEPT]:
            del node[old]
        node["type"] = value
    else:
        node[at] = value
