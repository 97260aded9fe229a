"""COCO instances: one JSON file for all pictures (Lin et al. 2014; https://cocodataset.org/#format-data)."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...core.errors import MsdmError
from .base import ExportedField, Exporter, Labels, Plan
from .runs import run_length_codes

FILE = "instances.json"
_KIND = re.compile("nucle(us|i)|cells?", re.IGNORECASE)


@dataclass(frozen=True)
class _Written:
    image: dict[str, Any]
    annotations: list[dict[str, Any]]


class COCO(Exporter):
    """`instances.json`, and the pictures in `images/` as they are.

    Segmentations are compressed run-length codes: polygons of COCO have no holes, and readers round them
    differently. An instance without class is of the category of its kind; one with a class is of the
    category of that name, whose `supercategory` is the kind.
    """

    def kinds(self, there: Sequence[str]) -> tuple[str, ...]:
        return tuple(there)

    def write(self, folder: Path, plan: Plan, exported: ExportedField) -> _Written:
        name = f"{exported.name}{exported.image_path.suffix}"
        target = folder / "images" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(exported.image_path, target)
        height, width = exported.image.shape[:2]
        image = {"id": exported.index + 1, "file_name": name, "height": height, "width": width}
        numbers = _categories(plan)
        annotations = [
            {"image_id": image["id"], "category_id": numbers[kind, exported.classes.get(kind, {}).get(k)]}
            | annotation
            for kind, labels in exported.masks.items()
            for k, annotation in enumerate(_annotations(labels), 1)
        ]
        return _Written(image, annotations)

    def gather(self, folder: Path, plan: Plan, written: Iterator[Any]) -> list[str]:
        categories = [
            {"id": number, "name": name or kind, **({"supercategory": kind} if name else {})}
            for (kind, name), number in _categories(plan).items()
            if name != kind
        ]
        images: list[dict[str, Any]] = []
        with open(folder / FILE, "w", encoding="utf-8") as handle:
            handle.write('{"annotations": [')
            _write_annotations(handle, written, images)
            handle.write(f'],\n"images": {json.dumps(images)},\n"categories": {json.dumps(categories)}}}\n')
        return []


def _write_annotations(handle: IO[str], written: Iterator[_Written], images: list[dict[str, Any]]) -> None:
    number = 0
    for field in written:
        images.append(field.image)
        for annotation in field.annotations:
            number += 1
            handle.write(",\n" if number > 1 else "\n")
            handle.write(json.dumps({"id": number, **annotation}))


def _categories(plan: Plan) -> Mapping[tuple[str, str | None], int]:
    """The number of each pair of kind and class; None is no class, and a class named as its kind is that."""
    numbers: dict[tuple[str, str | None], int] = {}
    for kind in plan.kinds:
        numbers[kind, None] = numbers[kind, kind] = len(set(numbers.values())) + 1
        for name in plan.classes.get(kind, ()):
            if name == kind:
                continue
            if _KIND.fullmatch(name) or name in plan.kinds:
                raise MsdmError(
                    f"class {name!r} of instances of kind {kind} would be read as the kind in COCO; rename "
                    "it in instances.csv"
                )
            numbers[kind, name] = len(set(numbers.values())) + 1
    return numbers


def _annotations(labels: Labels) -> Iterator[dict[str, Any]]:
    """Segmentation, area and box (x, y, width, height) of each instance, 1..n."""
    from scipy.ndimage import find_objects

    areas = np.bincount(labels.ravel())[1:]
    boxes = find_objects(labels.astype(np.int32))
    for code, area, (rows, columns) in zip(run_length_codes(labels), areas.tolist(), boxes, strict=True):
        yield {
            "segmentation": {"size": list(labels.shape), "counts": code},
            "area": area,
            "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
            "iscrowd": 0,
        }
