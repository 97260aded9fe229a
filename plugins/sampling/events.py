"""What a sampling job tells while it runs."""

from collections.abc import Callable
from dataclasses import dataclass

from ..metrics.adherence import Adherence


@dataclass(frozen=True)
class Planned:
    """What will be painted: `fields` fields in `steps` solver steps each, `seen` of them trained on.

    Attributes
    ----------
    fields, steps, seen : int
    evaluations : int
        Of the network, for the steps of a field; they are counted while it is painted.
    device : str
    notes : tuple of str
    done, pairs, rejected : int
        Fields, pairs and rejected paintings that are there of an earlier start of the job.
    lost : int
        Pairs that were there and are painted again, as a file of theirs is gone or damaged.
    share : int
        Fields that this process paints.
    processes : int
        That paint.
    """

    fields: int
    steps: int
    evaluations: int
    seen: int
    device: str
    notes: tuple[str, ...] = ()
    done: int = 0
    pairs: int = 0
    rejected: int = 0
    lost: int = 0
    share: int = 0
    processes: int = 1


@dataclass(frozen=True)
class Stepped:
    """An evaluation of the network on `fields` fields is done."""

    fields: int


@dataclass(frozen=True)
class Painted:
    """A pair was written: `rejected` says why it was not kept, `again` that its output is painted anew."""

    id: str
    adherence: Adherence
    rejected: str = ""
    again: bool = False


Listener = Callable[[Planned | Stepped | Painted], None]
