"""Statistics of a data set by groups of its fields: counts, sizes, shapes, densities."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import MsdmError, did_you_mean
from ..core.fields import Progress, has_file, mask_folder
from .checking import open_data
from .parallel import ordered_map
from .properties import Field, FieldProperty, Values

INSTANCE = ("area", "eccentricity")
"""Properties of instances; the eccentricity is equation 3 of the MSDM paper, see `instance_properties`."""
EVERY = "all"
"""The group of a set that is not grouped."""
NONE = "(empty)"
"""The group of fields whose value is empty."""


@dataclass
class KindStatistics:
    """Of one mask kind in one group.

    Attributes
    ----------
    count : array of float
        Instances of each field that has a mask of the kind.
    density : array of float
        Instances per megapixel, of each such field.
    instances : dict of property -> array of float
        Of every instance; `area` in pixels.
    """

    count: "array[float]" = field(default_factory=lambda: array("d"))
    density: "array[float]" = field(default_factory=lambda: array("d"))
    instances: dict[str, "array[float]"] = field(
        default_factory=lambda: {name: array("f") for name in INSTANCE}
    )


@dataclass
class GroupStatistics:
    """Of the fields of one group.

    Attributes
    ----------
    ids : list of str
        In the manifest's order.
    kinds : dict of kind -> KindStatistics
    ratio : array of float
        Nucleus pixels over cell pixels, of each field that has both.
    """

    ids: list[str] = field(default_factory=list)
    kinds: dict[str, KindStatistics] = field(default_factory=dict)
    ratio: "array[float]" = field(default_factory=lambda: array("d"))


@dataclass
class Statistics:
    """Of a data set.

    Attributes
    ----------
    root : Path
    column : str or None
        What it is grouped by.
    kinds : tuple of str
    groups : dict of value -> GroupStatistics
        The largest first.
    """

    root: Path
    column: str | None
    kinds: tuple[str, ...]
    groups: dict[str, GroupStatistics]

    def figures(self) -> list[dict[str, str]]:
        """The table: a row per group and kind, as text."""
        return [
            _row(name, kind, group)
            for name, group in self.groups.items()
            for kind in self.kinds
            if kind in group.kinds
        ]


def statistics(
    root: str | Path,
    *,
    group: str | None = None,
    workers: int | None = 1,
    on_progress: Progress | None = None,
) -> Statistics:
    """Measure a data folder.

    Masks are read field by field; of every instance 8 bytes are kept.

    Parameters
    ----------
    root : path
        A folder in the documented layout. Images need not be there; a mask that is not is left out.
    group : str or None
        A column of the manifest; None takes all fields together.
    workers : int or None
        Processes; None takes all cores where there are many fields.
    on_progress : callable (done, total) or None
        Called first with (0, total), then after each field.

    Raises
    ------
    MsdmError
        The folder, its manifest or a mask is wrong, or there is no such column.
    """
    root = Path(root)
    rows, kinds = open_data(root, images=False)
    if group is not None and group not in rows[0]:
        raise MsdmError(f"no column {group!r} in the manifest; {did_you_mean(group, rows[0])}")
    groups: dict[str, GroupStatistics] = {}
    ids = [row["id"] for row in rows]
    measured = ordered_map(partial(_measure, root, kinds), ids, workers, on_progress)
    for row, found in zip(rows, measured, strict=True):
        name = EVERY if group is None else row[group].strip() or NONE
        _add(groups.setdefault(name, GroupStatistics()), row["id"], found)
    largest = dict(sorted(groups.items(), key=lambda item: (-len(item[1].ids), item[0])))
    return Statistics(root, group, kinds, largest)


@dataclass(frozen=True)
class _Measured:
    """Of one field: instances by kind and property, instances per megapixel, and the ratio; NaN for none."""

    instances: dict[str, dict[str, Values]]
    density: dict[str, float]
    ratio: float


def _measure(root: Path, kinds: Sequence[str], id: str) -> _Measured:
    asked = Field(root, {"id": id})
    instances: dict[str, dict[str, Values]] = {}
    density: dict[str, float] = {}
    for kind in kinds:
        if not has_file(root / mask_folder(kind), id):
            continue
        instances[kind] = {name: asked.instances(kind, name) for name in INSTANCE}
        density[kind] = asked.number(FieldProperty("density", (kind,)))
    both = {"cell", "nucleus"} <= instances.keys()
    ratio = asked.number(FieldProperty("ratio", ("nucleus", "cell"))) if both else float("nan")
    return _Measured(instances, density, ratio)


def _add(group: GroupStatistics, id: str, found: _Measured) -> None:
    group.ids.append(id)
    for kind, properties in found.instances.items():
        of = group.kinds.setdefault(kind, KindStatistics())
        of.count.append(float(len(properties["area"])))
        of.density.append(found.density[kind])
        for name, values in properties.items():
            of.instances[name].extend(values.tolist())
    if not np.isnan(found.ratio):
        group.ratio.append(found.ratio)


def _row(name: str, kind: str, group: GroupStatistics) -> dict[str, str]:
    of = group.kinds[kind]
    area, eccentricity = (np.asarray(of.instances[prop], np.float64) for prop in INSTANCE)
    return {
        "group": name,
        "kind": kind,
        "fields": str(len(of.count)),
        "instances": str(len(area)),
        "per field": _mean(np.asarray(of.count), 1),
        "per Mpx": _mean(np.asarray(of.density), 0),
        "area": _spread(area, 0),
        "area median": f"{np.median(area):.0f}" if len(area) else "",
        "eccentricity": _spread(eccentricity, 3),
        "above 0.85": f"{np.mean(eccentricity > 0.85):.0%}" if len(eccentricity) else "",
        "nucleus/cell": _mean(np.asarray(group.ratio), 3) if kind == "nucleus" else "",
    }


def _mean(values: NDArray[np.float64], digits: int) -> str:
    return f"{values.mean():.{digits}f}" if len(values) else ""


def _spread(values: NDArray[np.float64], digits: int) -> str:
    """Mean and standard deviation of the population."""
    return f"{values.mean():.{digits}f} ± {values.std():.{digits}f}" if len(values) else ""
