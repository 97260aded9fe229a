"""Properties of instances and of fields: what a selection is made by.

Instances have the names of scikit-image's `regionprops`: area, eccentricity, solidity ... A field has

    mean_cell_eccentricity    mean, std (of the population), median, min or max over the instances of a kind
    count_nucleus             instances
    density_nucleus           instances per megapixel (10^6 pixels of the field)
    fraction_cell_foreground  pixels of the kind over pixels of the field
    nucleus_cell_ratio        pixels of one kind over those of another: here the N:C ratio by area
    height, width             pixels

and the columns of its manifest. An instance may have a class, of `instances.csv`. Lengths are in pixels,
areas in square pixels.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import MsdmError, did_you_mean
from ..core.fields import IMAGES, locate, mask_folder
from ..core.images import read_image, read_labels
from .instances import Classes

Values = NDArray[np.float64]

MOMENT_PROPERTIES = (
    "area",
    "area_bbox",
    "axis_major_length",
    "axis_minor_length",
    "eccentricity",
    "equivalent_diameter_area",
    "extent",
    "orientation",
)
"""Found for all instances at once; the others are asked of scikit-image, instance by instance."""
OTHER_PROPERTIES = (
    "area_convex",
    "area_filled",
    "euler_number",
    "feret_diameter_max",
    "perimeter",
    "perimeter_crofton",
    "solidity",
)
INSTANCE_PROPERTIES = tuple(sorted(MOMENT_PROPERTIES + OTHER_PROPERTIES))
AGGREGATED = tuple(name for name in INSTANCE_PROPERTIES if name != "orientation")
"""Those that have a mean: an orientation is that of a line, and pi/2 is -pi/2."""

AGGREGATES: dict[str, Callable[[Values], Any]] = {
    "mean": np.mean,
    "std": np.std,
    "median": np.median,
    "min": np.min,
    "max": np.max,
}


def instance_properties(labels: NDArray[np.integer[Any]], name: str) -> Values:
    """A property of every instance.

    Parameters
    ----------
    labels : ndarray (H, W) of int
        Instances, 0 is background. A label in several pieces is one instance; one that the border cuts is
        measured as it is.
    name : str
        Of `INSTANCE_PROPERTIES`.

    Returns
    -------
    ndarray (N,) float64
        In ascending order of the labels. `orientation` is in radians, [-pi/2, pi/2], from the axis of rows.

    Raises
    ------
    MsdmError
        There is no such property.

    Notes
    -----
    The eccentricity is equation 3 of the MSDM paper (arXiv 2510.09121), sqrt(1 - (L_minor / L_major)^2), with
    the axes of the ellipse of the instance's second central moments. That is what `regionprops` calls
    eccentricity, to rounding. 0 is a circle; an instance one pixel wide has 1, a single pixel 0.
    """
    if name in MOMENT_PROPERTIES:
        return moment_properties(labels)[name]
    if name not in OTHER_PROPERTIES:
        raise MsdmError(f"no property {name!r} of instances; {did_you_mean(name, INSTANCE_PROPERTIES)}")
    from skimage.measure import regionprops_table

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of hulls of instances of one or two pixels
        return np.asarray(regionprops_table(labels, properties=(name,))[name], np.float64)


def moment_properties(labels: NDArray[np.integer[Any]]) -> dict[str, Values]:
    """Every one of `MOMENT_PROPERTIES`, each (N,) float64 in ascending order of the labels.

    scikit-image loops over instances in Python; sums over all of them at once give the same numbers faster.
    """
    rows, columns = np.nonzero(labels)
    if not rows.size:
        return {name: np.zeros(0) for name in MOMENT_PROPERTIES}
    found = labels[rows, columns]
    if int(found.max()) <= 2**20:
        present = np.bincount(found) > 0
        which = (np.cumsum(present) - 1)[found]
    else:
        which = np.unique(found, return_inverse=True)[1].reshape(-1)
    area = np.bincount(which).astype(np.float64)

    def mean(of: NDArray[Any]) -> Values:
        return np.bincount(which, of) / area

    y, x = rows - mean(rows)[which], columns - mean(columns)[which]
    # the inertia tensor of regionprops: of rows and columns, each about the other's axis
    a, b, c = mean(x * x), -mean(x * y), mean(y * y)
    half, spread = (a + c) / 2, np.hypot((a - c) / 2, b)
    major, minor = 4 * np.sqrt(half + spread), 4 * np.sqrt(np.maximum(half - spread, 0))
    box = np.ones(len(area))
    for line in (rows, columns):
        low, high = np.full(len(area), max(labels.shape)), np.zeros(len(area), np.int64)
        np.minimum.at(low, which, line)
        np.maximum.at(high, which, line)
        box *= high - low + 1
    flatness = np.divide(minor, major, out=np.ones_like(minor), where=major > 0)
    return {
        "area": area,
        "area_bbox": box,
        "axis_major_length": major,
        "axis_minor_length": minor,
        "eccentricity": np.sqrt(1 - flatness**2),
        "equivalent_diameter_area": np.sqrt(4 * area / np.pi),
        "extent": area / box,
        "orientation": np.where(a == c, np.where(b < 0, 1, -1) * np.pi / 4, np.arctan2(-2 * b, c - a) / 2),
    }


@dataclass(frozen=True)
class FieldProperty:
    """A number of a field, by its parts; `aggregate` and `instance` for those over instances."""

    form: str
    kinds: tuple[str, ...] = ()
    aggregate: str = ""
    instance: str = ""


@cache
def parse_property(name: str, kinds: tuple[str, ...]) -> FieldProperty | None:
    """What a name such as ``mean_cell_eccentricity`` stands for with these mask kinds; None for nothing."""
    if name in ("height", "width"):
        return FieldProperty(name)
    either = "|".join(map(re.escape, sorted(kinds, key=len, reverse=True))) or r"(?!)"
    if found := re.fullmatch(rf"(count|density)_({either})", name):
        return FieldProperty(found[1], (found[2],))
    if found := re.fullmatch(rf"fraction_({either})_foreground", name):
        return FieldProperty("fraction", (found[1],))
    if found := re.fullmatch(rf"({either})_({either})_ratio", name):
        return FieldProperty("ratio", (found[1], found[2]))
    if found := re.fullmatch(rf"({'|'.join(AGGREGATES)})_({either})_({'|'.join(AGGREGATED)})", name):
        return FieldProperty("aggregate", (found[2],), found[1], found[3])
    return None


def property_names(kinds: tuple[str, ...]) -> list[str]:
    """Every name that `parse_property` takes."""
    names = ["height", "width"]
    for kind in kinds:
        names += [f"count_{kind}", f"density_{kind}", f"fraction_{kind}_foreground"]
        names += [f"{kind}_{other}_ratio" for other in kinds if other != kind]
        names += [f"{how}_{kind}_{name}" for how in AGGREGATES for name in AGGREGATED]
    return names


@dataclass
class Field:
    """A row of a manifest whose properties are measured when they are asked for.

    Attributes
    ----------
    root : Path
        The data folder.
    row : mapping column -> str
    missing : bool
        Set by an expression that compared a missing value.
    classes : mapping kind -> mapping label -> str
        Classes of instances, of those that have one.
    """

    root: Path
    row: Mapping[str, str]
    missing: bool = False
    classes: Classes = field(default_factory=dict)
    _labels: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    _measured: dict[tuple[str, str], Values] = field(default_factory=dict, repr=False)

    def labels(self, kind: str) -> NDArray[Any]:
        """The label mask of a kind, (H, W) uint8 or uint16.

        Raises
        ------
        MsdmError
            Its file is missing or damaged.
        """
        if kind not in self._labels:
            self._labels[kind] = read_labels(locate(self.root / mask_folder(kind), self.row["id"]))
        return self._labels[kind]

    def instances(self, kind: str, name: str) -> Values:
        """A property of the instances of a kind, (N,) float64; see `instance_properties`."""
        if (kind, name) not in self._measured:
            labels = self.labels(kind)
            if name in MOMENT_PROPERTIES:
                found = moment_properties(labels)
                self._measured |= {(kind, other): values for other, values in found.items()}
            else:
                self._measured[kind, name] = instance_properties(labels, name)
        return self._measured[kind, name]

    def classes_of(self, kind: str) -> NDArray[np.str_]:
        """The class of every instance of a kind, (N,) in ascending order of the labels; empty for none."""
        labels = np.unique(self.labels(kind))
        named = self.classes.get(kind, {})
        return np.array([named.get(label, "") for label in labels[labels > 0].tolist()], np.str_)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, of a mask that was read or else of the image."""
        for labels in self._labels.values():
            return labels.shape[0], labels.shape[1]
        image = read_image(locate(self.root / IMAGES, self.row["id"]))
        return image.shape[0], image.shape[1]

    def number(self, wanted: FieldProperty) -> float:
        """A property of the field; NaN where it has none, such as the mean over no instances."""
        if wanted.form in ("height", "width"):
            return float(self.size[wanted.form == "width"])
        kind = wanted.kinds[0]
        if wanted.form == "aggregate":
            values = self.instances(kind, wanted.instance)
            return float(AGGREGATES[wanted.aggregate](values)) if values.size else float("nan")
        labels = self.labels(kind)
        if wanted.form in ("count", "density"):
            count = float(self.instances(kind, "area").size)
            return count if wanted.form == "count" else count / labels.size * 1e6
        inside = np.count_nonzero(labels)
        if wanted.form == "fraction":
            return inside / labels.size
        others = np.count_nonzero(self.labels(wanted.kinds[1]))
        return inside / others if others else float("nan")
