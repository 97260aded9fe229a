"""The options of `msdm-kit sample` that keep some paintings and set others apart, and what they did."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ..plugins.filtering import Acceptance

MinAdherence = Annotated[
    float | None,
    typer.Option(
        "--min-adherence",
        metavar="DICE",
        help="Keep what follows its nucleus mask so well, 0 to 1; the rest goes to OUT.rejected.",
        show_default="keep all",
    ),
]
Segmenters = Annotated[
    list[str] | None,
    typer.Option(
        "--segmenter",
        metavar="MODEL",
        help="Segment what is painted with this model (see msdm-kit segment); one per kind. Repeatable.",
        show_default="none",
    ),
]
MinAgreement = Annotated[
    float | None,
    typer.Option(
        "--min-agreement",
        metavar="F1",
        help="Keep that in which --segmenter finds so much of what was painted, 0 to 1.",
        show_default="keep all",
    ),
]
MaxColourError = Annotated[
    float | None,
    typer.Option(
        "--max-colour-error",
        metavar="LEVELS",
        help="Keep what is so near to its mean colour, 0 to 255; the rest goes to OUT.rejected.",
        show_default="keep all",
    ),
]
Tries = Annotated[
    int,
    typer.Option(
        "--tries", metavar="N", min=1, help="Paint what is rejected again, from other noise, N times in all."
    ),
]


def add_rows(table: "Table", acceptance: "Acceptance") -> None:
    """What the filter did, as rows of a name and a value."""
    outputs = acceptance.accepted + acceptance.rejected
    table.add_row("accepted", f"{acceptance.accepted} of {outputs}")
    rate = "not measured" if acceptance.rate is None else f"{100 * acceptance.rate:.1f} %"
    table.add_row(f"acceptance rate, of {acceptance.paintings} paintings", rate)
    for limit in acceptance.limits:
        table.add_row(f"rejected, not {limit}", str(acceptance.reasons[limit.measure]))
    if acceptance.not_measured:
        table.add_row("accepted, as it could not be measured", str(acceptance.not_measured))
