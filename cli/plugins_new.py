"""`msdm-kit plugins new`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = "\b\nExample:\n  msdm-kit plugins new crowding\n  msdm-kit plugins new stain --out ~/src"


def new(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="What recipes will call it: lower-case letters, digits, underscores."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the package's folder msdm-kit-NAME appears.")
    ] = Path("."),
) -> None:
    """Write a package with a conditioner of your own to begin with.

    It installs, and passes its tests, as it is written.
    """
    from ..plugins.new_plugin import new_plugin
    from .console import output, say

    folder = new_plugin(name, out)
    say(output(), f"package: {folder}")
    say(output(), f"test it with: pip install -e '{folder}[test]' && pytest {folder}")
