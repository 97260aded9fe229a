"""`msdm-kit plugins`: each longer command has a module of its own, `plugins_<verb>.py`."""

import typer

from .plugins_new import EXAMPLES as NEW_EXAMPLES
from .plugins_new import new
from .plugins_show import EXAMPLES as SHOW_EXAMPLES
from .plugins_show import show

EXAMPLES = (
    "\b\nExample:\n  msdm-kit plugins\n  msdm-kit plugins show spade\n  msdm-kit --no-plugin spade plugins"
)

plugins = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=False,
    invoke_without_command=True,
    help="List the plugins of every kind, or say all about one.",
    epilog=EXAMPLES,
)


@plugins.callback()
def _list(ctx: typer.Context) -> None:
    """List the plugins of every kind, or say all about one.

    What is left out is marked with the reason.
    """
    if ctx.invoked_subcommand is not None:
        return
    from ..plugins.host import get_host
    from .console import output, plain_table, printable

    console = output()
    table = plain_table("kind", "name", "summary", "package", "version", "API", "state")
    for row in get_host().listing():
        style = None if row.state == "ok" else "yellow" if row.usable or row.state == "blocked" else "red"
        api = "?" if row.api is None else str(row.api)
        words = (row.kind, row.name, row.summary, row.package, row.version, api, row.state)
        table.add_row(*map(printable, words), style=style)
    console.print(table)


plugins.command("show", epilog=SHOW_EXAMPLES)(show)
plugins.command("new", epilog=NEW_EXAMPLES)(new)
