"""Fields of masks that nobody annotated: shapes of a data set, packed to a density and a mean eccentricity.

The MSDM paper recombines what was annotated and names the need of masks as its limit; this is a layout
generator that needs no new ones. Shapes are real; where they lie is random.
"""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import MsdmError
from ..core.fields import MANIFEST
from ..core.manifest import write_manifest
from ..core.sample import Labels
from ..core.seeds import rng_for
from .importers.base import Content
from .importers.writing import write_field
from .instances import InstanceFile
from .mask_operations.forms import turned
from .mask_operations.space import Space
from .mask_operations.units import Stamp, paste, renumbered
from .new_folder import check_new, new_folder
from .parallel import ordered_map
from .properties import moment_properties
from .shape_library import Shape, ShapeLibrary, Values, read_shapes

SHAPES = "shapes.csv"
TURNS = 4
"""Turned forms of a shape that are tried before it counts as not fitting."""
TRIED = 200
"""Instances, in 2 fields at least, that are laid out to see what a field makes of the mean eccentricity."""


@dataclass(frozen=True)
class Layout:
    """The masks of a synthesised field.

    Attributes
    ----------
    masks : dict of kind -> ndarray (H, W) int32
        Labels from 1, those of a cell and its nucleus alike where they were in the source.
    placed : list of (int, Shape)
        Label of the outer kind, and the shape that lies there.
    drawn : list of Shape
        All that were to lie there.
    classes : dict of kind -> dict of label -> str
        Of the shapes that have one.
    """

    masks: dict[str, Labels]
    placed: list[tuple[int, Shape]]
    drawn: list[Shape]
    classes: dict[str, dict[int, str]]

    @property
    def asked(self) -> int:
        """Instances asked for."""
        return len(self.drawn)


@dataclass(frozen=True)
class Shapes:
    """The library is read: its size and what its fields are like."""

    shapes: int
    eccentricity: float
    density: float


@dataclass(frozen=True)
class Laid:
    """`done` of `total` fields are laid out."""

    done: int
    total: int


@dataclass
class Synthesised:
    """What a synthesis did.

    Attributes
    ----------
    folder : Path
    kind : str
        The outer kind, whose instances are counted.
    asked, placed : int
        Instances in all fields.
    density : float
        Instances per megapixel, measured on the masks.
    eccentricity, area : list of float
        Mean over the instances of each field, measured on the masks.
    short : list of str
        Ids of fields where fewer instances fitted than asked for.
    """

    folder: Path
    kind: str
    asked: int = 0
    placed: int = 0
    density: float = 0.0
    eccentricity: list[float] = field(default_factory=list)
    area: list[float] = field(default_factory=list)
    short: list[str] = field(default_factory=list)


Listener = Callable[[Shapes | Laid], None]


def lay_out(
    library: ShapeLibrary, weights: Values, size: tuple[int, int], count: int, rng: np.random.Generator
) -> Layout:
    """Pack drawn shapes into a field, the largest first, each turned at random, without overlap.

    The border cuts instances as it does in real fields, but never one whose middle lies outside. A shape is
    placed uniformly among all places where it fits; one that fits nowhere, in four turned forms, is left
    out.

    Parameters
    ----------
    library : ShapeLibrary
    weights : ndarray (N,) float64
        Of `ShapeLibrary.weights`.
    size : (int, int)
        Height and width.
    count : int
        Instances asked for.
    rng : numpy.random.Generator
    """
    drawn = sorted(library.draw(weights, count, rng), key=lambda shape: -shape.area)
    # a turned shape is at most the diagonal of its box long, and two pixels for rounding
    reach = max((int(np.hypot(*shape.stamp.footprint.shape)) + 3 for shape in drawn), default=0)
    canvas = size[0] + 2 * reach, size[1] + 2 * reach
    space = Space(np.zeros(canvas, bool))
    work = {kind: np.zeros(canvas, np.int32) for kind in library.kinds}
    used: set[int] = set()
    placed = []
    classes: dict[str, dict[int, str]] = {kind: {} for kind in library.kinds}
    for shape in drawn:
        for _ in range(TURNS):
            stamp = turned(shape.stamp, rng)
            y, x = _middle(stamp, library.kinds)
            rows, columns = ((reach - at, reach - at + n - 1) for at, n in zip((y, x), size, strict=True))
            place = space.find(stamp.footprint, rng, rows, columns)
            if place is not None:
                fresh, origins = renumbered(Stamp(stamp.masks, *place), used)
                space.set(stamp.footprint, *place)
                paste(work, fresh)
                placed.append((int(fresh.masks[library.kinds[0]].max()), shape))
                for kind, named in shape.classes.items():
                    classes[kind] |= {new: named[old] for new, old in origins.items() if old in named}
                break
    inner = np.s_[reach : reach + size[0], reach : reach + size[1]]
    return Layout({kind: labels[inner].copy() for kind, labels in work.items()}, placed, drawn, classes)


def aim(library: ShapeLibrary, eccentricity: float, size: tuple[int, int], count: int, seed: int) -> Values:
    """Weights under which fields have the mean eccentricity, as they are measured.

    The border makes round instances less round, and crowding leaves out some shapes rather than others: by
    how much the mean of trial fields differs from that of the shapes drawn for them, another one is asked of
    the library.

    Raises
    ------
    MsdmError
        The library cannot give that mean.
    """
    weights = library.weights(eccentricity)
    changes = []
    for i in range(max(2, -(-TRIED // count))):
        layout = lay_out(library, weights, size, count, rng_for(seed, "trial", i))
        if layout.placed:
            measured = moment_properties(layout.masks[library.kinds[0]])["eccentricity"].mean()
            changes.append(measured - np.mean([shape.eccentricity for shape in layout.drawn]))
    change = float(np.mean(changes)) if changes else 0.0
    low, high = library.range
    return library.weights(min(max(eccentricity - change, low), high))


def synthesise(
    data: str | Path,
    out: str | Path,
    *,
    n: int,
    size: tuple[int, int],
    density: float | None = None,
    eccentricity: float | None = None,
    split: str | None = None,
    ids: Sequence[str] | None = None,
    seed: int = 0,
    workers: int | None = 1,
    listener: Listener = lambda event: None,
) -> Synthesised:
    """Write fields of synthesised masks as a data set without images.

    Parameters
    ----------
    data : path
        The data set that shapes are taken of.
    out : path
        New or empty; it appears when it is complete.
    n : int
        Fields.
    size : (int, int)
        Height and width in pixels, 16 to 16384.
    density : float or None
        Instances of the outer kind per megapixel (10^6 pixels); None takes that of `data`.
    eccentricity : float or None
        Mean of the outer kind (equation 3 of the MSDM paper); None draws all shapes alike.
    split, ids
        Which fields shapes are taken of, as for `read_shapes`.
    seed : int
        A field depends on it and on its number, not on how many there are.
    workers : int or None
        Processes; None takes all cores where there are many fields. The result is the same.
    listener : callable
        Called with every event.

    Returns
    -------
    Synthesised

    Raises
    ------
    MsdmError
        The library cannot give that mean, a number is out of range, or anything is wrong with the folders;
        nothing is left in `out` then.
    """
    folder, source = Path(out), Path(data)
    if n < 1 or not all(16 <= side <= 16384 for side in size):
        raise MsdmError(f"{n} fields of {size[0]}x{size[1]}: give at least 1, of 16x16 to 16384x16384 pixels")
    if density is not None and not 0 < density <= 1e6:
        raise MsdmError(f"density {density:g}: give instances per megapixel, above 0 and at most 1000000")
    check_new(folder, source)
    library = read_shapes(source, split=split, ids=ids)
    listener(Shapes(len(library.shapes), float(library.eccentricities.mean()), library.density))
    per_field = (library.density if density is None else density) * size[0] * size[1] / 1e6
    if per_field < 1 or per_field > 65535:
        raise MsdmError(
            f"density {per_field / (size[0] * size[1]) * 1e6:g} is {per_field:.2g} instances in a field of "
            f"{size[0]}x{size[1]}; legal are 1 to 65535: choose another density or size"
        )
    weights = library.weights(None)
    if eccentricity is not None:
        weights = aim(library, eccentricity, size, int(per_field), seed)
    done = Synthesised(folder, library.kinds[0])
    rows = []

    def laid(count: int, total: int) -> None:
        if count:
            listener(Laid(count, total))

    with (
        new_folder(folder) as temporary,
        open(temporary / SHAPES, "w", encoding="utf-8", newline="") as origins,
        InstanceFile(temporary) as instances,
    ):
        writer = csv.writer(origins, lineterminator="\n")
        writer.writerow(["id", "label", "source", "source_label"])
        # the fractions of an instance add up over the fields
        until = [int(per_field * i + 0.5) for i in range(n + 1)]
        jobs = [(i, until[i + 1] - until[i]) for i in range(n)]
        maker = _Maker(temporary, library, weights, size, seed, split, ids)
        for made in ordered_map(maker, jobs, workers, laid):
            instances.add(made.id, made.classes)
            rows.append(_row(made, source, seed, density, eccentricity))
            writer.writerows([made.id, *place] for place in made.places)
            done.asked += made.asked
            done.placed += made.placed
            done.eccentricity.append(made.eccentricity)
            done.area.append(made.area)
            if len(made.places) < made.asked:
                done.short.append(made.id)
        write_manifest(temporary / MANIFEST, rows)
    done.density = done.placed / (n * size[0] * size[1]) * 1e6
    return done


def _middle(stamp: Stamp, kinds: Sequence[str]) -> tuple[int, int]:
    """A pixel of the innermost kind, the nearest to its centroid: where it is in the field, all kinds are."""
    inner = np.argwhere(stamp.masks[kinds[-1]] > 0)
    outer = stamp.masks[kinds[0]]
    both = inner[outer[inner[:, 0], inner[:, 1]] > 0]
    inner = both if len(both) else inner
    nearest = inner[((inner - inner.mean(0)) ** 2).sum(1).argmin()]
    return int(nearest[0]), int(nearest[1])


@dataclass(frozen=True)
class _Made:
    """A field that is written: what the set's files and figures have of it."""

    id: str
    asked: int
    placed: int
    places: list[tuple[int, str, int]]
    classes: dict[str, dict[int, str]]
    eccentricity: float
    area: float


class _Maker:
    """Lays out and writes a field: its number and how many instances it is to have.

    Where it is sent to another process, shapes are not sent along: that process reads them itself.
    """

    def __init__(
        self,
        folder: Path,
        library: ShapeLibrary,
        weights: Values,
        size: tuple[int, int],
        seed: int,
        split: str | None,
        ids: Sequence[str] | None,
    ) -> None:
        self._folder, self._weights, self._size, self._seed = folder, weights, size, seed
        self._library: ShapeLibrary | None = library
        self._of = library.folder, split, None if ids is None else tuple(ids)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_library": None}

    def __call__(self, job: tuple[int, int]) -> _Made:
        number, count = job
        library = _read_once(*self._of) if self._library is None else self._library
        id = f"synth_{self._seed}_{number + 1:05d}"
        layout = lay_out(library, self._weights, self._size, count, rng_for(self._seed, "synthesise", number))
        if not layout.placed:
            raise MsdmError(
                f"no shape of {library.folder} fits into {self._size[0]}x{self._size[1]} pixels; choose a "
                f"larger --size"
            )
        masks = {kind: labels.astype(np.int64) for kind, labels in layout.masks.items()}
        written = write_field(self._folder, id, Content(None, masks, layout.classes), id)
        measured = moment_properties(layout.masks[library.kinds[0]])
        return _Made(
            id,
            layout.asked,
            len(measured["area"]),
            [(label, shape.field, shape.label) for label, shape in layout.placed],
            written.classes,
            float(measured["eccentricity"].mean()),
            float(measured["area"].mean()),
        )


@lru_cache(maxsize=1)
def _read_once(folder: Path, split: str | None, ids: tuple[str, ...] | None) -> ShapeLibrary:
    """The shapes, in a process of `ordered_map`: it ends with the synthesis, so that they are never old."""
    return read_shapes(folder, split=split, ids=ids)


def _row(
    made: _Made, source: Path, seed: int, density: float | None, eccentricity: float | None
) -> dict[str, str]:
    return {
        "id": made.id,
        "synthesised_from": source.resolve().name,
        "synthesis": json.dumps(
            {
                "asked": made.asked,
                "density": density,
                "eccentricity": eccentricity,
                "placed": len(made.places),
                "seed": seed,
            },
            sort_keys=True,
        ),
    }
