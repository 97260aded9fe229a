"""Fields to feature vectors: one per field, the mean over its tiles."""

import base64
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError
from ...core.images import to_uint8
from ...core.processes import processes
from ...core.sample import Image, Sample
from ..parallel import ordered_map
from .base import Embedder
from .cache import EmbeddingCache, Vector
from .tiling import pixel_size_of, resampled, tiles

Progress = Callable[[int, int], None]


class Fields(Protocol):
    """Fields by number: a `FieldDataset`, or a list of samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Sample: ...


def embed_fields(
    embedder: Embedder,
    fields: Fields,
    *,
    target: float | None = None,
    cache: EmbeddingCache | None = None,
    batch: int = 16,
    workers: int | None = 1,
    on_progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Feature vectors of fields.

    Under torchrun the fields are shared out among its processes, and all have the vectors of all.

    A field is one row whatever its size, as fields and not tiles are what was sampled: tiles of one field are
    alike, and rows that are alike make every comparison look surer than it is. The mean over many tiles
    varies less than that over few, so sets whose fields differ in size differ in spread.

    Parameters
    ----------
    embedder : Embedder
    fields : FieldDataset, or sequence of Sample
        Each with an image.
    target : float or None
        Pixel size to bring fields to, in micrometres; None takes the embedder's. A field whose own is not
        known is taken as it is.
    cache : EmbeddingCache or None
        Of this embedder.
    batch : int
        Tiles at once.
    workers : int or None
        Processes, for an embedder that is `parallel`; None takes all cores where there are many fields.
    on_progress : callable (done, total) or None
        Called first with (0, total), then after each field.

    Returns
    -------
    ndarray (len(fields), D) float32
        Finite.

    Raises
    ------
    MsdmError
        There are no fields, one has no image, or the embedder returned what is no feature vector.
    """
    if not len(fields):
        raise MsdmError("there are no fields to embed; give at least one")
    here = processes()
    if on_progress is not None:
        on_progress(0, len(fields))
        if here.count > 1:  # the others are as far, or nearly
            on_progress = partial(_of_all, on_progress, here.count, len(fields))
    own = _Part(fields, here.share(range(len(fields))))
    found = _embed(embedder, own, target, cache, batch, workers, on_progress)
    if here.count > 1:
        told = here.gather([base64.b64encode(row.tobytes()).decode() for row in found])
        found = [
            np.frombuffer(base64.b64decode(told[i % here.count][i // here.count]), np.float32)
            for i in range(len(fields))
        ]
    if len({len(row) for row in found}) > 1:
        raise MsdmError("the embedder returned vectors of several lengths; it must return one length for all")
    return np.stack(found)


@dataclass(frozen=True)
class _Part:
    """Some of the fields, by their numbers."""

    fields: Fields
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int, /) -> Sample:
        return self.fields[self.numbers[i]]


def _of_all(on_progress: Progress, processes: int, total: int, done: int, own: int) -> None:
    """What all processes have done, by what one has."""
    on_progress(min(done * processes, total), total)


def _embed(
    embedder: Embedder,
    fields: _Part,
    target: float | None,
    cache: EmbeddingCache | None,
    batch: int,
    workers: int | None,
    on_progress: Progress | None,
) -> list[Vector]:
    target = embedder.pixel_size if target is None else target
    several = embedder.parallel and workers != 1
    known = frozenset() if cache is None or not several else cache.keys
    numbers = range(len(fields))
    found: list[Vector | None] = [None] * len(fields)
    waiting: list[tuple[int, str, list[Image]]] = []
    done = 0

    def settle(i: int, key: str, vector: Vector, *, new: bool) -> None:
        nonlocal done
        found[i] = vector
        if cache is not None and new:
            cache.add(key, vector)
        done += 1
        if on_progress is not None:
            on_progress(done, len(fields))

    def work() -> None:
        for (i, key, _), vector in zip(
            waiting, _embedded(embedder, [t for _, _, t in waiting], batch), strict=True
        ):
            settle(i, key, vector, new=True)
        waiting.clear()

    try:
        if several:
            for i, (key, fresh) in enumerate(
                ordered_map(partial(_one, embedder, fields, target, known), numbers, workers)
            ):
                kept = cache.get(key) if fresh is None and cache is not None else fresh
                # a file of the cache that was there a moment ago may be unreadable now
                vector = kept if kept is not None else _one(embedder, fields, target, (), i)[1]
                assert vector is not None
                settle(i, key, vector, new=fresh is not None)
        else:
            for i in numbers:
                image, key = _prepared(fields[i], target)
                kept = None if cache is None else cache.get(key)
                if kept is not None:
                    settle(i, key, kept, new=False)
                    continue
                waiting.append((i, key, tiles(image(), embedder.tile)))
                if sum(len(t) for _, _, t in waiting) >= batch:
                    work()
            if waiting:
                work()
    finally:
        if cache is not None:
            cache.flush()
    return [vector for vector in found if vector is not None]


def _prepared(sample: Sample, target: float | None) -> tuple[Callable[[], Image], str]:
    """A field's image at the target's pixel size, made when it is called for, and the key of its features."""
    if sample.image is None:
        raise MsdmError(f"field {sample.id!r} has no image; only painted fields can be compared")
    image = sample.image
    own = pixel_size_of({"id": sample.id, **sample.metadata})
    factor = 1.0 if own is None or target is None else own / target
    raw = to_uint8(image)
    digest = hashlib.sha256(f"{raw.shape} {factor!r}".encode())
    digest.update(raw.data)
    return (lambda: resampled(image, factor)), digest.hexdigest()


def _one(
    embedder: Embedder, fields: Fields, target: float | None, known: Collection[str], i: int
) -> tuple[str, Vector | None]:
    image, key = _prepared(fields[i], target)
    if key in known:
        return key, None
    return key, next(_embedded(embedder, [tiles(image(), embedder.tile)], 16))


def _embedded(embedder: Embedder, groups: list[list[Image]], batch: int) -> Iterator[Vector]:
    """The mean vector of each group of tiles."""
    flat = [tile for group in groups for tile in group]
    parts = [embedder.embed(flat[start : start + batch]) for start in range(0, len(flat), batch)]
    rows = np.concatenate(parts)
    if rows.ndim != 2 or len(rows) != len(flat) or not np.isfinite(rows).all():
        raise MsdmError(
            f"the embedder {type(embedder).__name__} returned {rows.shape} for {len(flat)} tiles, or values "
            f"that are not finite; it must return a finite vector for each"
        )
    start = 0
    for group in groups:
        mean = rows[start : start + len(group)].mean(axis=0, dtype=np.float64)
        yield np.ascontiguousarray(mean, np.float32)
        start += len(group)
