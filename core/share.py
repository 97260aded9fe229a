"""What one process computes of an optimiser step."""

from collections.abc import Iterator
from dataclasses import dataclass

from .errors import MsdmError
from .processes import ALONE, Processes
from .recipe import TrainSection


@dataclass(frozen=True)
class Share:
    """The images of each optimiser step that one process computes.

    A step sees the same images whatever the number of processes: crops n to n + images - 1 of the run, cut
    into equal pieces, one per process in the order of ranks.

    Attributes
    ----------
    images : int
        Of a whole step.
    first : int
        Place in the step of this process's first image.
    passes : tuple of int
        Images of each of its forward passes.
    """

    images: int
    first: int
    passes: tuple[int, ...]

    def batches(self, start: int, stop: int) -> "Batches":
        """The crops of the optimiser steps `start` to `stop` - 1 that are this process's."""
        return Batches(self, range(start, stop))


@dataclass(frozen=True)
class Batches:
    """Numbers of the crops of each forward pass, pass after pass.

    Attributes
    ----------
    share : Share
    steps : range
    """

    share: Share
    steps: range

    def __len__(self) -> int:
        return len(self.steps) * len(self.share.passes)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            n = step * self.share.images + self.share.first
            for size in self.share.passes:
                yield list(range(n, n + size))
                n += size


def share_of_step(section: TrainSection, here: Processes = ALONE) -> Share:
    """What this process computes of every optimiser step.

    Its images come in as few forward passes of at most `section.batch` as there can be, equal but for one.

    Raises
    ------
    MsdmError
        The images of a step cannot be shared out evenly.
    """
    images = section.batch * section.accumulate
    own, rest = divmod(images, here.count)
    if rest:
        legal = ", ".join(str(n) for n in range(1, images + 1) if images % n == 0)
        raise MsdmError(
            f"{here.count} processes cannot share out the {images} images of an optimiser step (train.batch "
            f"{section.batch} x train.accumulate {section.accumulate}) evenly; legal: {legal} processes"
        )
    count = -(-own // section.batch)
    passes = tuple(own // count + (i < own % count) for i in range(count))
    return Share(images, here.rank * own, passes)
