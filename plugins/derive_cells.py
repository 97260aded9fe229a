"""Cells from nuclei, for a set that has none."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import MsdmError
from ..core.fields import IMAGES, MANIFEST, Progress, has_file, locate, mask_folder, without_hashes
from ..core.images import read_image, read_labels
from ..core.manifest import write_manifest
from .checking import open_data
from .checks.manifest import SLIDES
from .importers.base import Content
from .importers.writing import write_field
from .instance_index import InstanceIndex
from .instances import InstanceFile
from .new_folder import check_new, new_folder
from .parallel import ordered_map

SHARE = 0.30
"""Of the median equivalent diameter of a slide's nuclei."""
LEAST, MOST = 2, 12
"""Pixels."""
FLAG, DISTANCE = "cells_derived", "cell_expand_px"


@dataclass(frozen=True)
class Derived:
    """What was derived: the folder, its fields and cells, and the range of the distances in pixels."""

    folder: Path
    fields: int
    cells: int
    distances: tuple[float, float]


def expand(nuclei: NDArray[np.integer[Any]], distance: float) -> NDArray[np.uint16]:
    """Cells: every nucleus grown by a distance, where no other is nearer.

    Parameters
    ----------
    nuclei : ndarray (H, W) of int
        In [0, 65535].
    distance : float
        Pixels, Euclidean.

    Returns
    -------
    ndarray (H, W) uint16
        With the labels of the nuclei; no cells overlap, each holds its nucleus.
    """
    from skimage.segmentation import expand_labels

    cells: NDArray[np.uint16] = expand_labels(nuclei, distance).astype(np.uint16)
    return cells


def default_distance(diameters: NDArray[np.float64]) -> int:
    """0.30 x the median equivalent diameter of nuclei, rounded, between 2 and 12 pixels.

    Fields at different magnifications get comparable rims. The built-in set's cells were derived so.
    """
    return int(np.clip(np.rint(SHARE * np.median(diameters)), LEAST, MOST))


def derive_cells(
    root: str | Path,
    out: str | Path,
    *,
    distance: float | None = None,
    workers: int | None = 1,
    on_progress: Progress | None = None,
) -> Derived:
    """Write a copy of a data folder with cells grown from its nuclei.

    Each row gets ``cells_derived`` = 1 and ``cell_expand_px``, the distance. A cell has the class of its
    nucleus. A field without an image stays so.

    Parameters
    ----------
    root, out : path
        `out` is new or empty.
    distance : float or None
        Pixels; None takes `default_distance` of each slide's nuclei, or of each field's where no column says
        which slide it is of.
    workers : int or None
        Processes; None takes all cores where there are many fields.
    on_progress : callable (done, total) or None
        Counts every field once, or twice where the nuclei are measured first.

    Raises
    ------
    MsdmError
        The set has cells or no nuclei, the distance is not above 0, or a file is wrong; nothing is left in
        `out` then.
    """
    root, folder = Path(root), Path(out)
    if distance is not None and not 0 < distance < float("inf"):
        raise MsdmError(f"distance {distance} grows no cells; give pixels above 0, or none for the default")
    rows, kinds = open_data(root, images=False)
    if "cell" in kinds:
        raise MsdmError(f"{root} has cells in {mask_folder('cell')}/; cells are derived where there are none")
    if "nucleus" not in kinds:
        raise MsdmError(f"{root} has no nuclei, in {mask_folder('nucleus')}/, to derive cells from")
    check_new(folder, root)
    ids = [row["id"] for row in rows]
    total = len(ids) * (1 if distance is not None else 2)
    if distance is None:
        column = next((name for name in rows[0] if name.lower() in SLIDES), "id")
        measured: dict[str, list[NDArray[np.float64]]] = {}
        found = ordered_map(partial(_diameters, root), ids, workers, _part(on_progress, 0, total))
        for row, diameters in zip(rows, found, strict=True):
            measured.setdefault(row[column], []).append(diameters)
        by_group = {group: default_distance(np.concatenate(each)) for group, each in measured.items()}
        distances: list[float] = [by_group[row[column]] for row in rows]
    else:
        distances = [distance] * len(rows)
    classes = InstanceIndex(root, ids)
    others = tuple(kind for kind in kinds if kind != "nucleus")
    count = 0
    with new_folder(folder) as temporary:
        with InstanceFile(temporary) as instances:
            jobs = list(zip(ids, distances, strict=True))
            derive_one = partial(_derive, root, temporary, others)
            counts = ordered_map(derive_one, jobs, workers, _part(on_progress, total - len(ids), total))
            for id, cells in zip(ids, counts, strict=True):
                count += cells
                named = classes.of(id)
                # a cell has the number of its nucleus
                instances.add(id, {**named, "cell": named["nucleus"]} if "nucleus" in named else named)
        write_manifest(
            temporary / MANIFEST,
            [
                {**without_hashes(row), FLAG: "1", DISTANCE: f"{pixels:g}"}
                for row, pixels in zip(rows, distances, strict=True)
            ],
        )
    return Derived(folder, len(rows), count, (min(distances), max(distances)))


def _part(on_progress: Progress | None, before: int, total: int) -> Progress | None:
    """The progress of a part, told as that of the whole."""
    return None if on_progress is None else lambda done, _: on_progress(before + done, total)


def _diameters(root: Path, id: str) -> NDArray[np.float64]:
    """Equivalent diameters of a field's nuclei, sqrt(4 area / pi)."""
    areas = np.bincount(_nuclei(root, id).reshape(-1))[1:]
    found: NDArray[np.float64] = np.sqrt(4 * areas[areas > 0] / np.pi)
    return found


def _nuclei(root: Path, id: str) -> NDArray[np.integer[Any]]:
    path = locate(root / mask_folder("nucleus"), id)
    nuclei = read_labels(path)
    if not nuclei.any():
        raise MsdmError(f"{path} has no nucleus; delete its row, or run msdm-kit data check --fix")
    return nuclei


def _derive(root: Path, out: Path, others: tuple[str, ...], job: tuple[str, float]) -> int:
    """Write a field with its cells; their number."""
    id, distance = job
    nuclei = _nuclei(root, id)
    image = read_image(locate(root / IMAGES, id)) if has_file(root / IMAGES, id) else None
    masks: Mapping[str, NDArray[np.integer[Any]]] = {
        "nucleus": nuclei,
        "cell": expand(nuclei, distance),
        **{kind: read_labels(locate(root / mask_folder(kind), id)) for kind in others},
    }
    written = write_field(out, id, Content(image, {k: m.astype(np.int64) for k, m in masks.items()}), id)
    return written.instances["cell"]
