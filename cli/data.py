"""`msdm-kit data`: the commands on data sets. Each longer one has a module of its own, `data_<verb>.py`."""

import typer

from .data_check import EXAMPLES as CHECK_EXAMPLES
from .data_check import check
from .data_derive import EXAMPLES as DERIVE_EXAMPLES
from .data_derive import derive_cells
from .data_export import EXAMPLES as EXPORT_EXAMPLES
from .data_export import export
from .data_import import EXAMPLES as IMPORT_EXAMPLES
from .data_import import import_
from .data_select import EXAMPLES as SELECT_EXAMPLES
from .data_select import select
from .data_stats import EXAMPLES as STATS_EXAMPLES
from .data_stats import stats
from .data_synthesise import EXAMPLES as SYNTHESISE_EXAMPLES
from .data_synthesise import synthesise

data = typer.Typer(rich_markup_mode=None, no_args_is_help=False, help="Prepare data sets.")


@data.callback()
def _group() -> None:
    """Prepare data sets."""


data.command("import", epilog=IMPORT_EXAMPLES)(import_)
data.command("check", epilog=CHECK_EXAMPLES)(check)
data.command("stats", epilog=STATS_EXAMPLES)(stats)
data.command("derive-cells", epilog=DERIVE_EXAMPLES)(derive_cells)
data.command("select", epilog=SELECT_EXAMPLES)(select)
data.command("export", epilog=EXPORT_EXAMPLES)(export)
data.command("synthesise", epilog=SYNTHESISE_EXAMPLES)(synthesise)
