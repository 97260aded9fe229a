"""Which outputs of a sampling job are settled, by the rows that there are of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..recombination import PlannedOutput
from .rows import TRY

Row = Mapping[str, str]


@dataclass
class Settled:
    """How far a job is.

    Attributes
    ----------
    kept, apart : list of mapping
        The rows of pairs and of rejected paintings that count, in the order of the plan, and of an output in
        the order of its tries.
    due : dict of str -> int
        The next try of each output that is not settled, in the order of the plan.
    lost : int
        Rows of which a file is gone or damaged, and which do not count.
    mixed : str
        What to tell of versions of packages, where they are not those that the job was begun with.
    """

    kept: list[Row]
    apart: list[Row]
    due: dict[str, int]
    lost: int = 0
    mixed: str = ""


def settle(
    outputs: Sequence[PlannedOutput],
    kept: Sequence[Row],
    apart: Sequence[Row],
    *,
    tries: int,
    filtered: bool,
) -> Settled:
    """Sort the rows of a job.

    An output is settled where its tries up to the one that was kept are there, or all of them. What comes
    after a try that is missing does not count: it is painted again.

    Parameters
    ----------
    outputs : sequence of PlannedOutput
    kept, apart : sequence of mapping
        Rows of whole pairs and of whole rejected paintings.
    tries : int
        Of each output at most.
    filtered : bool
        Whether paintings may be rejected.
    """
    pairs, rejects = ({row["id"]: row for row in rows} for rows in (kept, apart))
    done = Settled([], [], {})
    for output in outputs:
        attempt = 1
        while filtered and attempt <= tries and (row := rejects.get(apart_id(output.id, attempt, tries))):
            done.apart.append(row)
            attempt += 1
        pair = pairs.get(output.id)
        if pair is not None and (not filtered or pair.get(TRY) == str(attempt)):
            done.kept.append(pair)
        elif attempt <= tries:
            done.due[output.id] = attempt
    return done


def apart_id(id: str, attempt: int, tries: int) -> str:
    """The id of a rejected painting: that of its output, and the try where there may be several."""
    return id if tries == 1 else f"{id}_try{attempt}"
