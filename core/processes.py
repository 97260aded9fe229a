"""The processes of one job, as `torchrun` starts them: who is who, and the few words that they exchange.

One process alone needs nothing of this: it is the leader, has all the work, and waits for nobody.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from .errors import MsdmError

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others."""


@dataclass(frozen=True)
class Processes:
    """This process among those of its job.

    Attributes
    ----------
    rank : int
        From 0 to `count` - 1.
    count : int
    local_rank : int
        Among those of this machine: the number of its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes what there is one of."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of the work: every `count`-th item, so that parts differ by one at most."""
        return items[self.rank :: self.count]

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.count > 1:
            dist.barrier()

    def gather(self, value: Any) -> list[Any]:
        """The JSON value of every process, in the order of ranks; the same list in every process."""
        if self.count == 1:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        # Bytes and not objects: torch would exchange objects as pickles.
        length = torch.tensor([len(data)])
        lengths = [torch.zeros_like(length) for _ in range(self.count)]
        dist.all_gather(lengths, length)
        longest = int(max(lengths))
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(data)] = data
        pieces = [torch.zeros_like(padded) for _ in range(self.count)]
        dist.all_gather(pieces, padded)
        return [json.loads(bytes(piece[: int(n)].tolist())) for piece, n in zip(pieces, lengths, strict=True)]


ALONE = Processes()


def processes(environment: Mapping[str, str] = os.environ) -> Processes:
    """This process, by the variables that `torchrun` sets; alone where there are none.

    Raises
    ------
    MsdmError
        They are not whole numbers that fit one another.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "WORLD_SIZE" not in environment:
        return ALONE
    try:
        rank, count, local = (int(environment.get(name, "")) for name in names)
        if not (0 <= local <= rank < count):
            raise ValueError
    except ValueError:
        said = ", ".join(f"{name}={environment.get(name, '')!r}" for name in names)
        raise MsdmError(
            f"{said} do not name a process of a job; start it with torchrun, or unset them"
        ) from None
    return Processes(rank, count, local)


@contextmanager
def joined(device: torch.device | None = None) -> Iterator[Processes]:
    """Meet the other processes of the job, and part from them at the end.

    Parameters
    ----------
    device : torch.device or None
        Where this process computes: tensors on a GPU go by NCCL, those on the CPU by gloo.

    Yields
    ------
    Processes

    Raises
    ------
    MsdmError
        The others do not come.
    """
    here = processes()
    if here.count == 1 or dist.is_initialized():
        yield here
        return
    cuda = device is not None and device.type == "cuda"
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise MsdmError(
            f"process {here.rank} of {here.count} cannot meet the others: {str(error).splitlines()[0]}; "
            f"start them with torchrun"
        ) from None
    try:
        yield here
    finally:
        dist.destroy_process_group()
