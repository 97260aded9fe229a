"""The options of `msdm-kit sample` that choose fields and recombine them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import MsdmError

if TYPE_CHECKING:
    from ..plugins.recombination import Recombination

Select = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.csv", help="Paint the fields of a selection (see msdm-kit data select), not of a split."
    ),
]
Versions = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Pairs of every field, in place of --n.")
]
Recombine = Annotated[
    str | None,
    typer.Option(
        metavar="FACETS",
        help="appearance, metadata or both by a comma: take them from another of the fields, a new one for "
        "each version.",
    ),
]
SeparateDonors = Annotated[
    bool,
    typer.Option("--separate-donors", help="Appearance and metadata from different fields, not from one."),
]
AppearanceFrom = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.csv|ID,ID", help="Take the appearance from these fields, not from the others."
    ),
]
MetadataFrom = Annotated[
    str | None,
    typer.Option(metavar="FILE.csv|ID,ID", help="Take the metadata from these fields, not from the others."),
]
Colour = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND=R,G,B",
        help="Give a kind's mean colour in levels of 0 to 255, each a number or a range such as 100-140; "
        "with deviations KIND=R,G,B:R,G,B. Repeatable.",
    ),
]
SetMetadata = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Give a column of the metadata. Repeatable.")
]


def recombination(
    data: str,
    facets: str | None,
    separate: bool,
    appearance_from: str | None,
    metadata_from: str | None,
    colours: Sequence[str],
    metadata: Sequence[str],
) -> "Recombination":
    """What the options say.

    Raises
    ------
    MsdmError
        They are of another form.
    """
    from ..plugins.given_colours import parse_colour
    from ..plugins.recombination import Recombination

    named = [facet.strip() for facet in facets.split(",")] if facets is not None else []
    pools: dict[str, tuple[str, ...] | None] = {}
    for facet, text in (("appearance", appearance_from), ("metadata", metadata_from)):
        pools[facet] = None if text is None else tuple(_ids(text, data))
        if text is not None:
            named.append(facet)
    given = {}
    for text in metadata:
        column, equals, value = text.partition("=")
        if not equals or not column:
            raise MsdmError(f"--set-metadata {text!r}: write COLUMN=VALUE, such as assay=HER2")
        given[column] = value
    return Recombination(
        frozenset(named),
        separate,
        pools["appearance"],
        pools["metadata"],
        dict(parse_colour(text) for text in colours),
        given,
    )


def _ids(text: str, data: str) -> list[str]:
    if text.endswith(".csv"):
        from ..plugins.data import data_folder
        from ..plugins.selection_file import load_selection

        return load_selection(text, data_folder(data))[0]
    return [id.strip() for id in text.split(",")]
