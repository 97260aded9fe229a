"""QuPath: GeoJSON of cells with their nuclei, or of detections (Bankhead et al. 2017)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import numpy as np

from ...core.errors import MsdmError
from .base import ExportedField, Exporter, Labels, Plan
from .files import save_png
from .outlines import polygons

_CELL, _NUCLEUS = "cell", "nucleus"
# Of the names of features, so that an export of the same data is the same, byte by byte.
_SPACE = UUID("9f1c6f0e-6a3c-4c6e-9d2b-3f5c0f6f3c11")


class QuPath(Exporter):
    """`x.geojson` with `x.png`, outlines along the corners of pixels.

    Of `cell` and `nucleus` together, a nucleus goes to the cell with which it shares most pixels. A nucleus
    without a cell, or whose cell has a larger one, is a detection of the name ``nucleus``. A cell of QuPath
    has one class: its nucleus's, otherwise its own.
    """

    def kinds(self, there: Sequence[str]) -> tuple[str, ...]:
        return (_CELL, _NUCLEUS) if {_CELL, _NUCLEUS} <= set(there) else super().kinds(there)

    def write(self, folder: Path, plan: Plan, exported: ExportedField) -> None:
        save_png(exported, folder / f"{exported.name}.png")
        path = folder / f"{exported.name}.geojson"
        with open(path, "w", encoding="utf-8") as handle:
            handle.write('{"type": "FeatureCollection", "features": [')
            for k, feature in enumerate(_features(exported)):
                named = {"type": "Feature", "id": str(uuid5(_SPACE, f"{exported.name}/{k}")), **feature}
                handle.write(("," if k else "") + "\n" + json.dumps(named, ensure_ascii=False))
            handle.write("\n]}\n")


def _features(exported: ExportedField) -> Iterator[dict[str, Any]]:
    shapes = {kind: _shapes(labels) for kind, labels in exported.masks.items()}
    if _CELL not in shapes:
        for kind, found in shapes.items():
            for label, shape in found.items():
                yield _feature("detection", shape, _class(exported, kind, label))
        return
    cells, nuclei = shapes[_CELL], shapes.get(_NUCLEUS, {})
    of_cell = _pairs(exported.masks[_CELL], exported.masks[_NUCLEUS]) if nuclei else {}
    for label, shape in cells.items():
        nucleus = of_cell.get(label)
        name = _class(exported, _NUCLEUS, nucleus) if nucleus else None
        feature = _feature("cell", shape, name or _class(exported, _CELL, label))
        yield feature | ({"nucleusGeometry": nuclei[nucleus]} if nucleus else {})
    paired = set(of_cell.values())
    for label, shape in nuclei.items():
        if label not in paired:
            yield _feature("detection", shape, _class(exported, _NUCLEUS, label), _NUCLEUS)


def _shapes(labels: Labels) -> dict[int, dict[str, Any]]:
    """The geometry of each instance."""
    from scipy.ndimage import find_objects

    found: dict[int, dict[str, Any]] = {}
    for label, (rows, columns) in enumerate(find_objects(labels.astype(np.int32)), 1):
        parts = polygons(labels[rows, columns] == label, columns.start, rows.start)
        if len(parts) == 1:
            found[label] = {"type": "Polygon", "coordinates": parts[0]}
        else:
            found[label] = {"type": "MultiPolygon", "coordinates": parts}
    return found


def _pairs(cells: Labels, nuclei: Labels) -> dict[int, int]:
    """The nucleus of each cell that has one; both at most once."""
    both = (cells > 0) & (nuclei > 0)
    pairs, shared = np.unique(np.stack([cells[both], nuclei[both]]), axis=1, return_counts=True)
    of_cell: dict[int, int] = {}
    taken: set[int] = set()
    # by the pixels shared, the largest first; then by label
    for k in np.argsort(-shared, kind="stable").tolist():
        cell, nucleus = int(pairs[0, k]), int(pairs[1, k])
        if cell not in of_cell and nucleus not in taken:
            of_cell[cell] = nucleus
            taken.add(nucleus)
    return of_cell


def _feature(
    object_type: str, geometry: Mapping[str, Any], class_: str | None, name: str = ""
) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": object_type}
    if name:
        properties["name"] = name
    if class_:
        # QuPath keeps derived classes, which it shows joined by colons, as a list.
        parts = class_.split(": ")
        properties["classification"] = {"names": parts} if len(parts) > 1 else {"name": class_}
    return {"geometry": geometry, "properties": properties}


def _class(exported: ExportedField, kind: str, label: int) -> str | None:
    name = exported.classes.get(kind, {}).get(label)
    if name is not None and name.endswith("*"):
        raise MsdmError(
            f"class {name!r} ends in '*', QuPath's sign for classes that are ignored; rename it in "
            "instances.csv"
        )
    return name
