"""`msdm-kit recipes`."""

from typing import Annotated

import typer

from ..core.errors import MsdmError

EXAMPLES = "\b\nExample:\n  msdm-kit recipes\n  msdm-kit recipes msdm\n  msdm-kit recipes --diff sdm-hv msdm"


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Print this recipe, a name or a path, with all defaults."),
    ] = None,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option("--diff", metavar="A B", help="Print what sets two recipes apart.", show_default="none"),
    ] = None,
) -> None:
    """List the recipes, print one, or compare two."""
    from ..plugins.host import get_host
    from ..plugins.recipe_files import differences, dump_recipe, load_recipe
    from .console import output, plain_table, say

    console = output()
    if diff is not None:
        if name is not None:
            raise MsdmError(f"--diff compares two recipes, and {name!r} is a third; leave it out")
        a, b = (load_recipe(one) for one in diff)
        say(console, "\n".join(differences(a, b)) or "no differences")
        return
    if name is not None:
        say(console, dump_recipe(load_recipe(name)).rstrip())
        return
    table = plain_table("name", "summary", "reference")
    for one in get_host().names("recipe"):
        try:
            recipe = load_recipe(one)
        except MsdmError as error:
            table.add_row(one, f"problem: {error}", "")
        else:
            table.add_row(one, recipe.summary, recipe.reference)
    console.print(table)
