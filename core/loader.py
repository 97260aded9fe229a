"""Training crops by number: the n-th crop of a run is the same in every process, and after every resume."""

import copy
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from .seeds import rng_for


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
        return Crop(
            image=torch.from_numpy(sample.image),
            observations={name: guard.observe(name, c, sample) for name, c in self.conditioners.items()},
            id=sample.id,
        )

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
    """Batches of a training stream; made by `make_loader`."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches = super().__iter__()
        for batch in batches:
            if isinstance(batch, MsdmError):
                break
            yield batch
        else:
            return
        # The workers end with their iterator: it must not live on in the frames of a caught exception, to be
        # collected in a process that is forked later, where it would damage the locks that both share.
        del batches
        raise batch


def make_loader(
    stream: TrainingStream, *, start: int, count: int, batch: int, workers: int, pin: bool = False
) -> TrainingLoader:
    """Batches of the crops start, ..., start + count - 1, in order.

    Parameters
    ----------
    stream : TrainingStream
    start : int
        Number of the first crop; to resume, the number of crops that have been trained on.
    count : int
        Crops in all; the last batch is smaller where `batch` does not divide it.
    batch : int
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
        batch_size=batch,
        sampler=range(start, start + count),
        collate_fn=guarded.collate,
        num_workers=workers,
        multiprocessing_context=context,
        worker_init_fn=_leave_interrupts_to_the_main_process if workers else None,
        pin_memory=pin,
        # Otherwise each pass would draw its base seed from torch's global generator, and move it.
        generator=torch.Generator(),
    )


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal. A worker that ended by it would take the batches with it
    # that the main process still waits for, and the run would not be saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _without_parameters(conditioner: Conditioner) -> Conditioner:
    """A copy on the CPU whose parameters have shapes but no memory."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad)
        for p in conditioner.parameters()
    }
    memo |= {id(b): b.detach().cpu().clone() for b in conditioner.buffers()}
    return copy.deepcopy(conditioner, memo)
