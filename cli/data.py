"""`msdm-kit data`: the commands on data sets. Each longer one has a module of its own, `data_<verb>.py`."""

import typer

from .data_import import EXAMPLES as IMPORT_EXAMPLES
from .data_import import import_
from .data_select import EXAMPLES as SELECT_EXAMPLES
from .data_select import select

data = typer.Typer(rich_markup_mode=None, no_args_is_help=False, help="Prepare data sets.")


@data.callback()
def _group() -> None:
    """Prepare data sets."""


data.command("import", epilog=IMPORT_EXAMPLES)(import_)
data.command("select", epilog=SELECT_EXAMPLES)(select)
