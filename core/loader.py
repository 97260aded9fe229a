"""Training crops by number: the n-th crop of a run is the same in every process, and after every resume."""

import copy
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from . import guard
from .augment import augment
from .conditioning import Conditioner, Observation
from .dataset import FieldDataset
from .errors import MsdmError
from .fields import summary
from .recipe import DataSection
from .sample import Sample
from .seeds import rng_for, seeded_globals

DYING = 5.0
"""Seconds within which a process that was killed is gone."""


class Crop(TypedDict):
    """One training crop: image (3, crop, crop) float32 in [-1, 1], and what each conditioner saw of it."""

    image: Tensor
    observations: dict[str, Observation]
    id: str


@dataclass(frozen=True)
class Batch:
    """Training crops.

    Attributes
    ----------
    image : Tensor (B, 3, crop, crop) float32
        In [-1, 1].
    observations : dict of conditioner's name -> dict of str -> Tensor
        As the conditioner's `collate` made them.
    ids : list of str
        The field that each crop was cut from.
    """

    image: Tensor
    observations: dict[str, Observation]
    ids: list[str]

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory, from which copies to a GPU can overlap computation."""
        seen = {
            name: {key: t.pin_memory() for key, t in observation.items()}
            for name, observation in self.observations.items()
        }
        return Batch(self.image.pin_memory(), seen, self.ids)


class TrainingStream(Dataset[Crop]):
    """The endless sequence of a run's training crops, each a function of its number n from 0.

    Epoch e = n // N is a permutation of the N fields, drawn for (seed, "order", e); the crop of field `id` is
    drawn for (seed, "augment", e, id). There is nothing to save for a resume but n.

    Parameters
    ----------
    dataset : FieldDataset
    conditioners : mapping name -> Conditioner
        Only `observe` and `collate` are called, and they must not use parameters: worker processes that are
        not forked get a copy without them.
    data : DataSection
        Crop and augmentation.
    seed : int

    Raises
    ------
    MsdmError
        A field is smaller than the crop.
    """

    def __init__(
        self, dataset: FieldDataset, conditioners: Mapping[str, Conditioner], data: DataSection, seed: int
    ) -> None:
        self.dataset = dataset
        self.conditioners = dict(conditioners)
        self.data = data
        self.seed = seed
        self._order: tuple[int, NDArray[np.int64]] | None = None
        small = [
            f"field {id!r} of {dataset.root} is {h} x {w}, smaller than data.crop {data.crop}; lower it"
            for id, (h, w) in zip(dataset.ids, dataset.sizes, strict=True)
            if min(h, w) < data.crop
        ]
        if small:
            raise MsdmError(f"{summary(small)}, the smallest side is {min(map(min, dataset.sizes))}")

    def sample(self, n: int) -> Sample:
        """The n-th crop, augmented, before any condition has observed it."""
        epoch, position = divmod(n, len(self.dataset))
        if self._order is None or self._order[0] != epoch:
            order = rng_for(self.seed, "order", epoch).permutation(len(self.dataset))
            self._order = epoch, order
        sample = self.dataset[int(self._order[1][position])]
        return augment(
            sample,
            crop=self.data.crop,
            flips=self.data.flips,
            turns=self.data.turns,
            rng=rng_for(self.seed, "augment", epoch, sample.id),
        )

    def __getitem__(self, n: int) -> Crop:
        sample = self.sample(n)
        with seeded_globals(self.seed, "observe", n):
            seen = {name: guard.observe(name, c, sample) for name, c in self.conditioners.items()}
        return Crop(image=torch.from_numpy(sample.image), observations=seen, id=sample.id)

    def collate(self, crops: Sequence[Crop]) -> Batch:
        """Crops as a batch, by each conditioner's own `collate`."""
        return Batch(
            image=torch.stack([crop["image"] for crop in crops]),
            observations={
                name: guard.collate(name, c, [crop["observations"][name] for crop in crops])
                for name, c in self.conditioners.items()
            },
            ids=[crop["id"] for crop in crops],
        )

    def __getstate__(self) -> dict[str, Any]:
        bare = {name: _without_parameters(c) for name, c in self.conditioners.items()}
        return {**self.__dict__, "conditioners": bare}


class _Guarded(Dataset[Crop | MsdmError]):
    """A stream whose mistakes are handed over like batches.

    Raised in a worker, an `MsdmError` would come out with the worker's traceback for its message, and in a
    cycle of references that keeps the workers from ending.
    """

    def __init__(self, stream: TrainingStream) -> None:
        self.stream = stream

    def __getitem__(self, n: int) -> Crop | MsdmError:
        try:
            return self.stream[n]
        except MsdmError as error:
            return error

    def collate(self, crops: Sequence[Crop | MsdmError]) -> Batch | MsdmError:
        good: list[Crop] = []
        for crop in crops:
            if isinstance(crop, MsdmError):
                return crop
            good.append(crop)
        try:
            return self.stream.collate(good)
        except MsdmError as error:
            return error


class TrainingLoader(DataLoader[Crop | MsdmError]):
    """Batches of a training stream; made by `make_loader`. Its iterator is to be closed."""

    def __iter__(self) -> Generator[Batch, None, None]:  # type: ignore[override]
        before = set(multiprocessing.active_children())
        batches: Iterator[Any] | None = super().__iter__()
        workers = set(multiprocessing.active_children()) - before
        hear = _handler_of_deaths() if workers else None
        mistake: MsdmError | None = None
        try:
            while mistake is None:
                try:
                    assert batches is not None
                    with _heard(hear):
                        batch = next(batches)
                except StopIteration:
                    return
                except (RuntimeError, OSError, EOFError) as error:
                    if "DataLoader worker" not in str(error) and not _one_died(workers):
                        raise
                    mistake = MsdmError(
                        f"a loader process has ended before its time ({_line(error)}); "
                        f"where memory is short, lower train.workers, and go on with --resume"
                    )
                else:
                    if isinstance(batch, MsdmError):
                        mistake = batch
                    else:
                        yield batch
        finally:
            # The workers end with their iterator: it must not live on in the frames of a caught exception, to
            # be collected in a process that is forked later, where it would damage the locks that both share.
            batches = None
            for worker in workers:
                if worker.is_alive():  # in the middle of a long observation
                    worker.kill()
                worker.join()
            if hear is not None:
                signal.signal(signal.SIGCHLD, hear)
        raise mistake


def _one_died(workers: Iterable[BaseProcess]) -> bool:
    """Whether one has ended; what it was about to hand over is missed before the system says so."""
    limit = time.monotonic() + DYING
    while time.monotonic() < limit:
        if not all(worker.is_alive() for worker in workers):
            return True
        time.sleep(0.01)
    return False


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")


_Handler = Callable[[int, FrameType | None], Any]


def _handler_of_deaths() -> _Handler | None:
    """What PyTorch does when a worker dies: it raises wherever the main process is."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return None
    handler = signal.getsignal(signal.SIGCHLD)
    return handler if callable(handler) else None


@contextmanager
def _heard(handler: _Handler | None) -> Iterator[None]:
    """Let a worker's death be told here and nowhere else: in an optimiser step it would cut that in two."""
    if handler is None:
        yield
        return
    signal.signal(signal.SIGCHLD, handler)
    try:
        handler(signal.SIGCHLD, None)  # of those that died in between
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def make_loader(
    stream: TrainingStream, batches: Iterable[list[int]], *, workers: int, pin: bool = False
) -> TrainingLoader:
    """Batches of crops, in order.

    Parameters
    ----------
    stream : TrainingStream
    batches : iterable of list of int
        Numbers of the crops of each batch; those of a run's process are `Share.batches`.
    workers : int
        Processes that load; 0 loads in this one. The batches do not depend on it.
    pin : bool
        Put batches in page-locked memory; for CUDA.

    Returns
    -------
    TrainingLoader
        An iterable of `Batch`.
    """
    # Forked workers share the decoded pixels and start at once. Elsewhere than on Linux a fork is not safe,
    # and the stream is pickled, without pixels and weights. DataLoader sets one torch thread per worker.
    context = "fork" if workers and sys.platform == "linux" else None
    guarded = _Guarded(stream)
    return TrainingLoader(
        guarded,
        batch_sampler=batches,
        collate_fn=guarded.collate,
        num_workers=workers,
        multiprocessing_context=context,
        worker_init_fn=_leave_signals_to_the_main_process if workers else None,
        pin_memory=pin,
        # Otherwise each pass would draw its base seed from torch's global generator, and move it.
        generator=torch.Generator(),
    )


def _leave_signals_to_the_main_process(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal, and torchrun and Slurm pass on what they are sent to all
    # processes of a rank. A worker that ended by it would take the batches with it that the main process
    # still waits for, and the run would not be saved.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _without_parameters(conditioner: Conditioner) -> Conditioner:
    """A copy on the CPU whose parameters have shapes but no memory."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad)
        for p in conditioner.parameters()
    }
    memo |= {id(b): b.detach().cpu().clone() for b in conditioner.buffers()}
    return copy.deepcopy(conditioner, memo)
