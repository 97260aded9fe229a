"""`msdm-kit plugins show`."""

from typing import Annotated

import typer

EXAMPLES = "\b\nExample:\n  msdm-kit plugins show spade\n  msdm-kit plugins show exporter cellpose"


def show(
    what: Annotated[
        str,
        typer.Argument(metavar="KIND|NAME", help="A plugin by its name, or its kind before the name."),
    ],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="The name after a kind: several kinds may share one.", show_default="none"
        ),
    ] = None,
) -> None:
    """Print all about a plugin.

    Its package, settings with defaults and legal values, what it reads and emits, and where it can enter.
    """
    from ..plugins.host import get_host
    from ..plugins.plugin_facts import find_plugin, plugin_facts
    from .console import output, plain_table, printable, say

    host = get_host()
    kind, name = find_plugin(what, name, host)
    facts = plugin_facts(kind, name, host)
    console = output()
    say(console, printable(f"{kind} {name}: {facts.plugin.summary}"))
    origin = facts.origin
    level = "not stated" if origin.api is None else origin.api
    lines = {"package": f"{origin.package} {origin.version}, plugin API {level}", **facts.lines}
    for title, text in lines.items():
        say(console, f"{title}: {printable(text)}")
    if not facts.settings:
        say(console, "settings: none")
        return
    table = plain_table("setting", "default", "legal", "description")
    for setting in facts.settings:
        columns = (setting.key, setting.default, setting.legal, setting.description)
        table.add_row(*map(printable, columns))
    console.print(table)
