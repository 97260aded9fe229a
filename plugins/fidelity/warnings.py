"""What is to be known before a figure of a fidelity measurement is trusted."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..embedders.base import Embedder
from ..embedders.tiling import pixel_size_of
from ..metrics.distance import PIXEL_SIZE

if TYPE_CHECKING:
    from .fidelity import Fidelity

SMALL_GROUP = 10
"""Fields of a group below which its distances are warned about."""
NEARER = 0.25
"""Share of synthetic fields very near to real ones from which on it is warned about; 0.05 is expected."""


def pixel_size_of_sets(
    embedder: Embedder, real: Sequence[Mapping[str, str]], synthetic: Sequence[Mapping[str, str]]
) -> tuple[float | None, list[str]]:
    """The pixel size that fields are brought to, and what is to be said of it."""
    sizes = [{pixel_size_of(row) for row in rows} for rows in (real, synthetic)]
    unknown = [name for name, found in zip(("real", "synthetic"), sizes, strict=True) if None in found]
    if embedder.pixel_size is not None:
        if not unknown:
            return embedder.pixel_size, []
        return embedder.pixel_size, [
            f"Fields of the {' and the '.join(unknown)} set have no {PIXEL_SIZE}: they were taken as they "
            f"are, as if it were the embedder's, {embedder.pixel_size:g} micrometres."
        ]
    known = {size for found in sizes for size in found if size is not None}
    if len(known) < 2 and not (known and unknown):
        return None, []
    if unknown:
        return None, [
            f"Some fields have a {PIXEL_SIZE} and some have none: all were taken as they are, at scales "
            f"that may differ."
        ]
    # the coarsest: what is made larger gains no detail
    return max(known), []


def warnings_of(found: "Fidelity") -> list[str]:
    """A sentence for each thing that makes a figure less sure than it looks."""
    lines = []
    matrix = found.matrix
    for name, groups, sizes in (
        ("real", matrix.real, matrix.real_sizes), ("synthetic", matrix.synthetic, matrix.synthetic_sizes),
    ):  # fmt: skip
        small = [f"{g} ({n})" for g, n in zip(groups, sizes, strict=True) if n < SMALL_GROUP]
        if small:
            lines.append(
                f"Groups of fewer than {SMALL_GROUP} {name} fields, whose distances are mostly chance: "
                f"{', '.join(small)}."
            )
    alone = [
        *sorted(set(matrix.real) - set(matrix.synthetic)),
        *sorted(set(matrix.synthetic) - set(matrix.real)),
    ]
    if alone:
        lines.append(f"Groups in one of the sets only, which match nothing: {', '.join(alone)}.")
    if matrix.drawn is not None:
        lines.append(f"Of groups with more fields, {matrix.drawn} drawn at random were compared.")
    n, m = len(found.real.ids), len(found.synthetic.ids)
    short = [r for r in found.metrics if not r.enough]
    for least in sorted({r.metric.least for r in short}):
        names = ", ".join(r.metric.title for r in short if r.metric.least == least)
        lines.append(f"{names}: needs at least {least:,} fields in each set, and here are {n:,} and {m:,}.")
    if not found.floors:
        lines.append(
            "No group has four real fields: there is no real-against-real floor to read distances by."
        )
    memory = found.memorisation
    if memory is not None and memory.copies:
        lines.append(
            f"{len(memory.copies)} of {m} synthetic fields are copies of real ones, such as "
            f"{memory.copies[0].id} of {memory.copies[0].alike}."
        )
    elif memory is not None and memory.nearer > NEARER:
        lines.append(
            f"{memory.nearer:.0%} of the synthetic fields are nearer to a real one than 95 % of the real "
            f"fields are to each other: look at the closest pairs."
        )
    return lines
