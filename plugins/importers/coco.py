"""COCO instances: one JSON file for all pictures (Lin et al. 2014; https://cocodataset.org/#format-data)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...core.errors import MsdmError
from .base import Content, ForeignField, Importer
from .canvas import Canvas, rings
from .raster import Points
from .reading import check_pixels, head, picture_size, read_json, read_picture, tail
from .runs import from_counts
from .source import Source

_GLANCE = 2**16
_MARKS = (b'"segmentation"', b'"image_id"', b'"categories"', b'"images"')
_NUCLEUS, _CELL = re.compile("nucle(us|i)", re.IGNORECASE), re.compile("cells?", re.IGNORECASE)


class COCO(Importer):
    """Polygons and run-length codes, compressed or not; regions with `iscrowd` are left out.

    A category `nucleus` or `cell` (or their plurals) is a mask kind, as is one that is named as the kind that
    is asked for. Every other one is a class: of the mask kind that its `supercategory` names, otherwise of
    the kind that is asked for.
    """

    looks_for = "COCO's x.json with images and annotations"

    def detect(self, source: Source) -> bool:
        return any(_is_coco(path) for path in source.glance)

    def fields(self, source: Source) -> Iterator[ForeignField]:
        for path in source.files(".json"):
            if _is_coco(path):
                yield from _File(path).fields(source)


def _is_coco(path: Path) -> bool:
    if path.suffix.lower() != ".json":
        return False
    ends = head(path, _GLANCE) + tail(path, _GLANCE)
    return b'"annotations"' in ends and any(mark in ends for mark in _MARKS)


class _File:
    """A parsed file: annotations by picture."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = read_json(path, object_hook=_compact)
        if not isinstance(content, dict):
            content = {}
        lists = [content.get(name) for name in ("images", "annotations", "categories")]
        if not all(isinstance(items, list) and all(isinstance(i, dict) for i in items) for items in lists):
            raise MsdmError(f"{path} has no lists images, annotations and categories; those make a COCO file")
        self.images, annotations, categories = lists
        try:
            self._categories = {
                c["id"]: (str(c["name"]), str(c.get("supercategory")))
                for c in categories  # type: ignore[union-attr]
            }
            self._of: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in self.images}  # type: ignore[union-attr]
            for a in annotations:  # type: ignore[union-attr]
                if a["image_id"] not in self._of:
                    raise MsdmError(
                        f"{path}: annotation {a.get('id')} is of image {a['image_id']}, which is not listed"
                    )
                if a["category_id"] not in self._categories:
                    raise MsdmError(
                        f"{path}: annotation {a.get('id')} is of category {a['category_id']}, which is not "
                        "listed"
                    )
                if not a.get("iscrowd"):
                    self._of[a["image_id"]].append(a)
        except (KeyError, TypeError) as error:
            raise MsdmError(
                f"{path} lacks or has a wrong {error}; each entry needs it in a COCO file"
            ) from None

    def fields(self, source: Source) -> Iterator[ForeignField]:
        kinds = {number: _kind(*words, source.kind) for number, words in self._categories.items()}
        for image in self.images:  # type: ignore[union-attr]
            name = image.get("file_name")
            size = (image.get("height"), image.get("width"))
            if not isinstance(name, str) or not all(isinstance(side, int) for side in size):
                raise MsdmError(
                    f"{self.path}: image {image.get('id')} has no file_name, height and width; give them"
                )
            path = source.inside(name, self._folders(source))
            path = path or source.find_image(self.path, PurePosixPath(name).stem)
            read = partial(_read, self.path, kinds, self._of[image["id"]], size, path)
            yield ForeignField(PurePosixPath(name).stem, f"{source.relative(self.path)}: {name}", read)

    def _folders(self, source: Source) -> list[Path]:
        if source.images is not None:
            return [source.images]
        return [
            self.path.parent,
            self.path.parent / "images",
            self.path.parent.parent / "images",
            source.root,
        ]


def _read(
    path: Path,
    categories: Mapping[Any, tuple[str, str]],
    annotations: Sequence[Mapping[str, Any]],
    size: tuple[int, int],
    image: Path | None,
) -> Content:
    check_pixels(size, str(path))
    if image is not None and picture_size(image) != size:
        found = picture_size(image)
        raise MsdmError(
            f"{image} is {found[0]} x {found[1]}, and {path} says {size[0]} x {size[1]}; it is another "
            "picture"
        )
    canvas = Canvas(size, str(path))
    counts: dict[str, int] = {}
    for annotation in annotations:
        kind, name = categories[annotation["category_id"]]
        counts[kind] = label = counts.get(kind, 0) + 1
        _draw(canvas, kind, label, annotation)
        if name:
            canvas.name(kind, label, name)
    return canvas.content(read_picture(image) if image else None)


def _kind(name: str, above: str, kind: str) -> tuple[str, str]:
    """The mask kind of a category, and the class that it stands for; none where it is empty."""
    if named := _mask_kind(name):
        return named, ""
    return (kind, "") if name == kind else (_mask_kind(above) or kind, name)


def _mask_kind(word: str) -> str | None:
    return "nucleus" if _NUCLEUS.fullmatch(word) else "cell" if _CELL.fullmatch(word) else None


def _draw(canvas: Canvas, kind: str, label: int, annotation: Mapping[str, Any]) -> None:
    where = f"{canvas.where}: annotation {annotation.get('id')}"
    code = annotation.get("segmentation")
    if isinstance(code, list):
        canvas.polygons(kind, label, [[_ring(numbers, where)] for numbers in code])
    elif isinstance(code, dict):
        stated = code.get("size")
        if stated != list(canvas.size):
            raise MsdmError(
                f"{where} is of size {stated}, and its image of {list(canvas.size)}; they must agree"
            )
        canvas.runs(kind, label, from_counts(code.get("counts"), canvas.size, where))
    else:
        raise MsdmError(f"{where} has no segmentation; boxes alone are no masks")


def _compact(entry: dict[str, Any]) -> dict[str, Any]:
    """Numbers of a polygon or code as an array, while the file is parsed: a tenth of the memory of a list."""
    if isinstance(entry.get("segmentation"), list):
        entry["segmentation"] = [_array(part) for part in entry["segmentation"]]
    if isinstance(entry.get("counts"), list):
        entry["counts"] = _array(entry["counts"])
    return entry


def _array(numbers: Any) -> Any:
    try:
        return np.array(numbers, dtype=np.float64 if any(isinstance(n, float) for n in numbers) else np.int64)
    except (TypeError, ValueError, OverflowError):
        return numbers  # refused where it is drawn, with the annotation's number


def _ring(numbers: Any, where: str) -> Points:
    if not isinstance(numbers, np.ndarray) or numbers.ndim != 1 or len(numbers) % 2:
        raise MsdmError(f"{where} has a polygon that is no list x, y, x, y ...; export the file again")
    return rings([numbers.reshape(-1, 2)], where)[0] if len(numbers) else np.empty((0, 2))
