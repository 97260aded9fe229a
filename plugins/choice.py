"""A plugin and its settings as a user writes them: ``NAME:KEY=VALUE,KEY=VALUE``, or a mapping."""

from typing import Any

from pydantic import ValidationError

from ..core.conditioning import PluginConfig
from ..core.errors import MsdmError
from .host import Host, get_host
from .recipe_schema import one_line
from .recipe_yaml import parse


def read_choice(kind: str, text: str) -> dict[str, Any]:
    """The mapping that a text on the command line stands for.

    Parameters
    ----------
    kind : str
        Of the plugin, for the message.
    text : str
        ``NAME`` or ``NAME:KEY=VALUE,KEY=VALUE``, values in YAML.

    Returns
    -------
    dict
        ``type`` and the settings.

    Raises
    ------
    MsdmError
        The text is of another form.

    Examples
    --------
    >>> read_choice("mask_operation", "drop_instances:fraction=0.2")
    {'type': 'drop_instances', 'fraction': 0.2}
    """
    name, colon, settings = text.partition(":")
    where = f"{kind.replace('_', ' ')} {text!r}"
    form = "write NAME or NAME:KEY=VALUE,KEY=VALUE"
    if not name.strip() or (colon and "=" not in settings):
        raise MsdmError(f"{where}: {form}")
    try:
        values = parse("{" + settings.replace("=", ": ") + "}", where)
    except MsdmError:
        raise MsdmError(f"{where}: the settings cannot be read; {form}") from None
    return {"type": name.strip(), **values}


def choose(kind: str, entry: Any, where: str, host: Host | None = None) -> tuple[str, Any, PluginConfig]:
    """The class of a plugin and its validated settings.

    Parameters
    ----------
    kind : str
        Such as ``segmenter``.
    entry : mapping
        ``type`` and the settings, from a file or of `read_choice`.
    where : str
        Where it stands, for the message.
    host : Host or None
        None is the host of this process.

    Returns
    -------
    name : str
    cls : type
    config : PluginConfig
        An object of ``cls.Config``.

    Raises
    ------
    MsdmError
        No such plugin, no mapping with ``type``, or illegal settings.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        raise MsdmError(f"{where}: a {kind.replace('_', ' ')} is a mapping with a type")
    settings = {str(key): value for key, value in entry.items() if key != "type"}
    cls = (host or get_host()).load(kind, entry["type"])
    try:
        return entry["type"], cls, cls.Config.model_validate(settings)
    except ValidationError as error:
        raise MsdmError(f"{where}: {one_line(error, cls.Config)}") from None
