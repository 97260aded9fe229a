"""The processes of one job, as `torchrun` starts them: who is who, and the few words that they exchange.

One process alone needs nothing of this: it is the leader, has all the work, and waits for nobody.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from .errors import MsdmError, SaidElsewhere

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others."""
GLANCE = 0.1
"""Seconds between two looks whether all have come."""
PRECEDENCE = timedelta(seconds=1)
"""How long a process that ends by a mistake lets the leader say it first, as all may have found the same."""
_JOINED: list["Processes"] = []
"""This process as it is joined with others, where it is."""
_REASON = "msdm-kit/reason"
_REMEMBERED = "msdm-kit/remembered/"
_LOST = ("gloo", "connection closed", "connection reset", "broken pipe", "nccl")
"""Words of what torch raises where another process is gone."""


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
    store : Store or None
        Where all can read and write words, while they are joined.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    store: Store | None = field(default=None, compare=False, repr=False)

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

    def wait_for_all(self, what: str) -> None:
        """Go on when all have come to `what`, however long the slowest takes.

        There is no end to the patience, as `torchrun` ends all processes where one dies.
        """
        if self.store is None:
            return self.wait()
        key = f"msdm-kit/{what}"
        # a job may come here again: each process comes once in every round
        rounds = -(-self.store.add(key, 1) // self.count)
        while self.store.add(key, 0) < rounds * self.count:
            time.sleep(GLANCE)

    def most(self, value: int) -> int:
        """The largest value of all processes; the same in every process."""
        if self.count == 1:
            return value
        number = torch.tensor(value)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return int(number)

    def add(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in place, where it is."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

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


def remember(word: str) -> None:
    """Keep a word for when torchrun starts these processes again; without torchrun there is no such time."""
    store = _torchruns_store()
    if store is not None:
        store.set(f"{_REMEMBERED}{word}", "")


def remembered(word: str) -> bool:
    """Whether this job has kept a word before torchrun started its processes again."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return False
    store = _torchruns_store()
    return store is not None and store.check([f"{_REMEMBERED}{word}"])


def _torchruns_store() -> Store | None:
    """Torchrun's own store, which outlives the processes that it starts; None where there is none."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store: Store = dist.TCPStore(  # type: ignore[attr-defined]  # it is public, but for its `__all__`
            address, port, timeout=PATIENCE, wait_for_workers=False
        )
    except (KeyError, ValueError, RuntimeError):
        return None
    return store


@contextmanager
def joined() -> Iterator[Processes]:
    """Meet the other processes of the job, and part from them at the end.

    Tensors on a GPU go by NCCL, those on the CPU by gloo. Where the job ends by a mistake, one process raises
    it: the leader if it has found it, too, otherwise the first that did.

    Yields
    ------
    Processes

    Raises
    ------
    MsdmError
        The others do not come, or another process has ended before its time. Of a process that is not the
        leader, the message begins with its number.
    SaidElsewhere
        Another process raises what ends the job.
    """
    here = _JOINED[-1] if _JOINED else processes()
    if here.count == 1 or dist.is_initialized():
        yield here
        return
    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
        # torchrun keeps the store when it starts all again, and in it the addresses of those who are gone
        store = PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=store,
            rank=here.rank,
            world_size=here.count,
            timeout=PATIENCE,
        )
    except (RuntimeError, ValueError, TypeError) as error:
        raise MsdmError(
            f"process {here.rank} of {here.count} cannot meet the others: {_first_line(error)}; "
            f"start them with torchrun"
        ) from None
    here = replace(here, store=store)
    _JOINED.append(here)
    try:
        yield here
    except MsdmError as error:
        raise _worded(str(error), store, here) from error
    except Exception as error:
        if is_left_alone(error):
            raise _worded(
                "another process of the job has ended before its time; start the job again (training: with "
                "--resume), or let torchrun do it: --max-restarts",
                store,
                here,
            ) from error
        with suppress(RuntimeError):  # it will be said with a traceback
            store.compare_set(_REASON, "", str(here.rank))
        raise
    finally:
        dist.destroy_process_group()


def is_left_alone(error: BaseException) -> bool:
    """Whether an exception is what torch raises where another process of the job is gone."""
    text = _first_line(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _LOST)


def _worded(text: str, store: Store, here: Processes) -> MsdmError:
    """The mistake as this process has to raise it."""
    try:
        if not here.leads:
            try:
                store.wait([_REASON], PRECEDENCE)
            except RuntimeError:  # the leader has nothing to say
                text = f"process {here.rank} of {here.count}: {text}"
        if store.compare_set(_REASON, "", str(here.rank)) != str(here.rank).encode():
            return SaidElsewhere(text)
    except RuntimeError:  # the store is gone, and with it who could have said it
        pass
    return MsdmError(text)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
