"""A data set of predicted masks against those of one or more annotators."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError, did_you_mean
from ...core.fields import MANIFEST, Progress, locate, mask_folder, mask_kinds
from ...core.images import read_labels
from ...core.manifest import read_manifest, select_split
from ..metrics.base import MaskMetric, Ratio
from ..metrics.comparison import Comparison, Instances, Masks
from ..metrics.distance import Distance
from ..parallel import shared_map
from .results import Evaluation, FieldScores, mean
from .scores import mask_metrics, ratios

NO_GROUP = "(empty)"
"""The group of fields whose value is empty."""


def evaluate_segmentation(
    predicted: str | Path,
    truths: Sequence[str | Path],
    *,
    metrics: Sequence[str] | None = None,
    split: str | None = None,
    group: Sequence[str] = (),
    distance: Distance = Distance(),  # noqa: B008  # it cannot be changed
    pixel_size: float | None = None,
    region: str | None = None,
    workers: int | None = 1,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Score predicted masks, field by field.

    Under torchrun the fields are shared out among its processes, and all have the same result.

    Parameters
    ----------
    predicted : path
        A data folder; images are not needed. Its further fields are left out.
    truths : sequence of path
        Data folders of one or more annotators. The fields are those of the first.
    metrics : sequence of str or None
        None takes all whose kinds of mask are in every folder.
    split : str or None
        Fields of this split of the first truth.
    group : sequence of str
        Columns of the first truth's manifest.
    distance : Distance
        Centres at this distance or nearer can be one instance.
    pixel_size : float or None
        Micrometres per pixel, for a distance in micrometres; None takes the column ``pixel_size_um`` of the
        first truth.
    region : str or None
        A kind of mask of the first truth, whatever its labels: instances, predicted and true, whose centre
        lies outside it are left out. None where fields were annotated in full.
    workers : int or None
        Processes; None takes all cores where there are many fields.
    on_progress : callable (done, total) or None
        Called first with (0, total), then after each field.

    Returns
    -------
    Evaluation

    Raises
    ------
    MsdmError
        A folder, a field or a mask is missing, damaged or of another size than its counterpart; a metric
        reads a kind of mask that is not in every folder; or there is no such split, column or metric.
    """
    folders = [Path(predicted), *map(Path, truths)]
    if len(folders) < 2:
        raise MsdmError("there is nothing to compare with; give at least one data set of true masks")
    manifests = [_manifest(folder) for folder in folders]
    rows = select_split(manifests[1], split, folders[1] / MANIFEST)
    for column in group:
        if column not in rows[0]:
            raise MsdmError(
                f"{folders[1] / MANIFEST} has no column {column!r}; {did_you_mean(column, rows[0])}"
            )
    for folder, manifest in zip(folders, manifests, strict=True):
        _check_fields(rows, folders[1], manifest, folder)
    chosen = _choose(metrics, {folder: mask_kinds(folder) for folder in folders})
    if region is not None and not (folders[1] / mask_folder(region)).is_dir():
        raise MsdmError(
            f"folder {folders[1] / mask_folder(region)} is missing; put masks of the region there, or leave "
            f"--region out"
        )
    where = folders[1] / MANIFEST
    radii = [distance.pixels_in(row, f"{where}, field {row['id']!r}", pixel_size) for row in rows]
    work = partial(_score, folders, tuple(chosen), region)
    fields = []
    tasks = [(row["id"], radius) for row, radius in zip(rows, radii, strict=True)]
    scored = shared_map(work, tasks, _Scored, workers, on_progress)
    for row, (against, agreement) in zip(rows, scored, strict=True):
        words = " / ".join(row[column].strip() or NO_GROUP for column in group)
        fields.append(FieldScores(row["id"], words, against, agreement))
    names = _names(folders[1:])
    return Evaluation(folders[0], tuple(folders[1:]), names, chosen, distance, region, fields)


def read_masks(root: Path, id: str, kinds: Sequence[str]) -> Masks:
    """The masks of a field, which may be empty; kind -> (H, W) int32.

    Raises
    ------
    MsdmError
        One is missing or damaged.
    """
    return {kind: read_labels(locate(root / mask_folder(kind), id)).astype(np.int32) for kind in kinds}


_Scored = tuple[tuple[dict[str, Ratio], ...], tuple[dict[str, float], ...]]
"""Of a field: against each annotator, and of each pair of them."""


def _score(
    folders: Sequence[Path], names: Sequence[str], region: str | None, task: tuple[str, float]
) -> _Scored:
    id, radius = task
    metrics = mask_metrics(names)
    kinds = sorted({kind for metric in metrics.values() for kind in metric.kinds})
    prediction, *truths = [read_masks(folder, id, kinds) for folder in folders]
    scored = None if region is None else read_masks(folders[1], id, [region])[region] > 0
    try:
        if scored is not None:
            prediction, *truths = [_inside(masks, scored) for masks in (prediction, *truths)]
        against = tuple(ratios(Comparison(prediction, true, radius), metrics) for true in truths)
        agreement = tuple(_agreement(one, other, radius, metrics) for one, other in combinations(truths, 2))
    except MsdmError as error:
        raise MsdmError(f"field {id!r}: {error}") from None
    return against, agreement


def _inside(masks: Masks, region: NDArray[np.bool_]) -> Masks:
    """The instances whose centre, at the nearest pixel, lies in a region."""
    kept = {}
    for kind, labels in masks.items():
        if labels.shape != region.shape:
            raise MsdmError(
                f"the {kind} mask is of shape {labels.shape}, and that of the region of {region.shape}; "
                f"give both one height and width"
            )
        instances = Instances(labels)
        rows, columns = np.rint(instances.centres).astype(np.intp).T
        kept[kind] = np.where(np.isin(labels, instances.labels[region[rows, columns]]), labels, 0)
    return kept


def _agreement(
    one: Masks, other: Masks, radius: float, metrics: Mapping[str, MaskMetric]
) -> dict[str, float]:
    there = ratios(Comparison(one, other, radius), metrics)
    back = ratios(Comparison(other, one, radius), metrics)
    return {name: mean([there[name].value, back[name].value]) for name in metrics}


def _manifest(folder: Path) -> list[dict[str, str]]:
    if folder.is_dir() and not (folder / MANIFEST).is_file():
        raise MsdmError(
            f"{folder} has no {MANIFEST}; import masks of another tool first: "
            f"msdm-kit data import {folder} OUT"
        )
    return read_manifest(folder / MANIFEST)


def _check_fields(
    rows: Sequence[Mapping[str, str]], truth: Path, manifest: Sequence[Mapping[str, str]], folder: Path
) -> None:
    there = {row["id"] for row in manifest}
    missing = [row["id"] for row in rows if row["id"] not in there]
    if missing:
        more = f" (+{len(missing) - 1} more)" if len(missing) > 1 else ""
        raise MsdmError(
            f"field {missing[0]!r}{more} of {truth} is not in {folder}; add it there, or take a split that "
            f"both have with --split"
        )


def _choose(names: Sequence[str] | None, kinds: Mapping[Path, Sequence[str]]) -> dict[str, MaskMetric]:
    metrics = mask_metrics(names)
    common = set.intersection(*map(set, kinds.values()))
    usable = {name: metric for name, metric in metrics.items() if common.issuperset(metric.kinds)}
    if names is not None:
        for name in (name for name in metrics if name not in usable):
            kind = next(kind for kind in metrics[name].kinds if kind not in common)
            folder = next(folder for folder, there in kinds.items() if kind not in there)
            raise MsdmError(
                f"metric {name!r} reads {kind} masks, and {folder / mask_folder(kind)} is missing; add them, "
                f"or leave the metric out"
            )
    if not usable:
        there = "; ".join(f"{folder}: {', '.join(found) or 'none'}" for folder, found in kinds.items())
        raise MsdmError(f"no metric reads a kind of mask that every data set has ({there}); add such masks")
    return usable


def _names(folders: Sequence[Path]) -> tuple[str, ...]:
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return tuple(name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names))
