"""Fields of several data sets, one after the other."""

from collections.abc import Sequence

from ...core.sample import Sample
from .base import Fields


class Joined:
    """Several sets of fields as one, such as real and painted ones; nothing is copied.

    Parameters
    ----------
    parts : sequence of Fields
    """

    def __init__(self, parts: Sequence[Fields]) -> None:
        self._parts = list(parts)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, i: int, /) -> Sample:
        i = range(len(self))[i]
        for part in self._parts:
            if i < len(part):
                break
            i -= len(part)
        return part[i]
