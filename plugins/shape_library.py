"""Instance shapes of a data set, and drawing them so that their mean eccentricity is the one asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import MsdmError
from ..core.fields import MANIFEST, locate, mask_folder, mask_kinds, open_manifest
from ..core.images import read_labels
from ..core.seeds import rng_for
from .instance_index import InstanceIndex
from .instances import Classes
from .mask_operations.units import NESTED, Stamp, cut_out, touches_border, units
from .properties import moment_properties

MAX_SHAPES = 20_000
"""Shapes that are kept; of a larger set, those of fields drawn at random."""
FEWEST = 20
"""Shapes that a draw spreads over at least: the effective number, 1 / sum of squared weights."""
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """An instance that no border cut, with what lies in it.

    Attributes
    ----------
    field : str
        The id of the field that it is of.
    label : int
        Of the outer kind there.
    stamp : Stamp
    eccentricity, area : float
        Of the outer kind; pixels.
    classes : mapping kind -> mapping label -> str
        Of the labels in `stamp`.
    """

    field: str
    label: int
    stamp: Stamp
    eccentricity: float
    area: float
    classes: Classes


@dataclass(frozen=True)
class ShapeLibrary:
    """Shapes of a data set.

    Attributes
    ----------
    folder : Path
    kinds : tuple of str
        The outer kind first.
    shapes : list of Shape
        By field and label.
    density : float
        Instances of the outer kind per megapixel, of the fields that were read.
    """

    folder: Path
    kinds: tuple[str, ...]
    shapes: list[Shape]
    density: float

    @property
    def eccentricities(self) -> Values:
        """(N,)."""
        return np.array([shape.eccentricity for shape in self.shapes])

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest mean eccentricity of a draw that spreads over enough shapes."""
        values = self.eccentricities
        low, high = (float(_tilted(values, _limit(values, sign)) @ values) for sign in (-1, 1))
        return low, high

    def weights(self, eccentricity: float | None) -> Values:
        """Probabilities under which the mean eccentricity is the one asked for.

        They are proportional to exp(t e): of all distributions on the shapes with that mean, the one nearest
        to drawing them alike (least relative entropy).

        Parameters
        ----------
        eccentricity : float or None
            None draws them alike.

        Returns
        -------
        ndarray (N,) float64
            Their sum is 1.

        Raises
        ------
        MsdmError
            No draw that spreads over 20 shapes (or a quarter of them, if there are fewer than 80) has it.
        """
        values = self.eccentricities
        if eccentricity is None:
            return np.full(len(values), 1 / len(values))
        lowest, highest = self.range
        if not lowest <= eccentricity <= highest:
            raise MsdmError(
                f"the {len(values)} shapes of {self.folder} give a mean eccentricity from "
                f"{np.ceil(lowest * 1000) / 1000:.3f} to {np.floor(highest * 1000) / 1000:.3f}, not "
                f"{eccentricity:g}; ask for one within, or take a data set with other shapes"
            )
        low, high = (_limit(values, sign) for sign in (-1, 1))
        # the mean grows with t
        for _ in range(200):
            middle = (low + high) / 2
            if _tilted(values, middle) @ values < eccentricity:
                low = middle
            else:
                high = middle
        return _tilted(values, (low + high) / 2)

    def draw(self, weights: Values, count: int, rng: np.random.Generator) -> list[Shape]:
        """`count` shapes: a systematic sample along the eccentricity, so that few have the mean too."""
        values = self.eccentricities
        # equals in a random order, so that they are drawn alike
        order = np.lexsort((rng.permutation(len(values)), values))
        places = (rng.uniform() + np.arange(count)) / max(count, 1)
        found = np.searchsorted(np.cumsum(weights[order]), places, side="right")
        return [self.shapes[order[min(int(i), len(order) - 1)]] for i in found]


def read_shapes(
    folder: Path,
    *,
    split: str | None = None,
    ids: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ShapeLibrary:
    """The shapes of a data set: cells with their nuclei, or the instances of its only kind.

    Parameters
    ----------
    folder : Path
        Images are not read, and need not be there.
    split : str or None
        Fields of this split; None takes all.
    ids : sequence of str or None
        These fields only.
    on_progress : callable (done, total)

    Raises
    ------
    MsdmError
        A mask cannot be read; there are several kinds other than cell and nucleus; an id is unknown; or no
        instance lies off the border.
    """
    rows = open_manifest(folder, (), split, None, images=False)
    kinds = _kinds(folder)
    names = [row["id"] for row in rows]
    if ids is not None:
        unknown = sorted(set(ids) - set(names))
        if unknown:
            raise MsdmError(f"{folder / MANIFEST} has no field {unknown[0]!r} to take shapes of")
        names = list(dict.fromkeys(ids))
    names = sorted(names)
    rng_for("shapes").shuffle(names)
    index = InstanceIndex(folder, names)
    shapes: list[Shape] = []
    count, pixels = 0, 0
    for done, id in enumerate(names, 1):
        masks = {}
        for kind in kinds:
            path = locate(folder / mask_folder(kind), id)
            masks[kind] = read_labels(path).astype(np.int32)
            if masks[kind].shape != masks[kinds[0]].shape:
                raise MsdmError(f"{path} has another size than the {kinds[0]} mask of {id!r}; mend one")
        named = index.of(id)
        outer = masks[kinds[0]]
        pixels += outer.size
        measured = moment_properties(outer)
        labels = np.unique(outer[outer > 0]).tolist()
        count += len(labels)
        rank = {label: i for i, label in enumerate(labels)}
        for unit in units(masks, kinds):
            # a cell without the kinds that others have is no shape to repeat, nor is a lone nucleus
            if set(unit.labels) != set(kinds) or touches_border(unit, (outer.shape[0], outer.shape[1])):
                continue
            i = rank[unit.labels[kinds[0]][0]]
            stamp = cut_out(masks, unit)
            eccentricity, area = (float(measured[name][i]) for name in ("eccentricity", "area"))
            classes = {
                kind: {label: named[kind][label] for label in unit.labels[kind] if label in named[kind]}
                for kind in kinds
                if kind in named
            }
            shapes.append(Shape(id, labels[i], stamp, eccentricity, area, classes))
        on_progress(done, len(names))
        if len(shapes) >= MAX_SHAPES:
            break
    if not shapes:
        raise MsdmError(
            f"no {' with a '.join(kinds)} of {folder} lies off the border; take larger fields, or other ones"
        )
    shapes.sort(key=lambda shape: (shape.field, shape.label))
    return ShapeLibrary(folder, kinds, shapes, count / pixels * 1e6)


def _kinds(folder: Path) -> tuple[str, ...]:
    found = mask_kinds(folder)
    nested = tuple(kind for kind in NESTED if kind in found)
    if nested:
        return nested
    if len(found) != 1:
        raise MsdmError(
            f"{folder} has the mask kinds {', '.join(found) or 'none'}; shapes are taken of cell and "
            f"nucleus, or of one other kind"
        )
    return found


def _tilted(values: Values, t: float) -> Values:
    weights = np.exp(t * (values - (values.max() if t > 0 else values.min())))
    return np.asarray(weights / weights.sum())


def _limit(values: Values, sign: int) -> float:
    """The strongest tilt that spreads over enough shapes: the effective number falls with |t|."""
    fewest = min(FEWEST, max(len(values) / 4, 1))
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        if 1 / (_tilted(values, sign * middle) ** 2).sum() >= fewest:
            low = middle
        else:
            high = middle
    return sign * low
