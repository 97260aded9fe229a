"""The Data Science Bowl 2018 (Caicedo et al. 2019): a file per nucleus, or run-length codes in a CSV."""

import csv
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ...core.errors import MsdmError
from .base import Content, ForeignField, Importer, LabelMap
from .canvas import Canvas
from .reading import check_size, head, picture_size, read_label_map, read_picture
from .runs import from_pairs
from .source import PICTURES, Source

_COLUMNS = ("ImageId", "EncodedPixels")
MAX_CSV = 2**31


class DSB2018(Importer):
    """`<id>/images/<id>.png` with `<id>/masks/*.png`, one per nucleus; or a CSV of run-length codes.

    Where a folder has both, the masks are taken. Files of one field are numbered in the order of their names;
    where two overlap, the later one wins.
    """

    looks_for = "<id>/images with <id>/masks, or a CSV with ImageId and EncodedPixels"

    def detect(self, source: Source) -> bool:
        masked = {path.parent.parent for path in source.glance if path.parent.name == "masks"}
        return any(is_field(path) and path.parent.parent in masked for path in source.glance) or any(
            _is_codes(path) for path in source.glance
        )

    def fields(self, source: Source) -> Iterator[ForeignField]:
        found = False
        folders = os.walk(source.path) if source.path.is_dir() else iter(())
        for name, below, _ in folders:
            below[:] = sorted(folder for folder in below if not folder.startswith("."))
            folder = Path(name)
            if {"images", "masks"} <= set(below) and any(map(is_field, _pictures(folder / "images"))):
                below.clear()
                found = True
                read = partial(_read_folder, folder, source.kind)
                yield ForeignField(folder.name, source.relative(folder), read)
        if not found:
            for path in source.files(".csv"):
                if _is_codes(path):
                    yield from _coded(path, source)


def is_field(path: Path) -> bool:
    """Whether a file is the picture of a field's folder: it has the folder's name."""
    return path.parent.name == "images" and path.stem == path.parent.parent.name


def _read_folder(folder: Path, kind: str) -> Content:
    pictures = _pictures(folder / "images")
    if len(pictures) != 1:
        raise MsdmError(f"{folder / 'images'} holds {len(pictures)} pictures, and legal is one per field")
    image = read_picture(pictures[0])
    labels: LabelMap = np.zeros(image.shape[:2], np.int32)
    masks = _pictures(folder / "masks")
    for label, path in enumerate(masks, 1):
        mask = read_label_map(path)
        if mask.shape != labels.shape:
            raise MsdmError(
                f"{path} is {mask.shape[0]} x {mask.shape[1]}, and its picture is {labels.shape[0]} x "
                f"{labels.shape[1]}; they must agree"
            )
        labels[mask > 0] = label
    return Content(image, {kind: labels}, lost=len(masks) - int(np.count_nonzero(np.unique(labels))))


def _pictures(folder: Path) -> list[Path]:
    names = sorted(os.listdir(folder))
    return [folder / n for n in names if not n.startswith(".") and n.lower().endswith(PICTURES)]


def _is_codes(path: Path) -> bool:
    return path.suffix.lower() == ".csv" and head(path, 64).startswith(
        (",".join(_COLUMNS).encode(), b"\xef\xbb\xbf" + ",".join(_COLUMNS).encode())
    )


def _coded(path: Path, source: Source) -> Iterator[ForeignField]:
    check_size(path, MAX_CSV, "split it")
    codes: dict[str, list[str]] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            for row in csv.DictReader(handle, strict=True):
                if row.get("EncodedPixels") is None:
                    raise MsdmError(
                        f"{path}, {row.get('ImageId')!r:.90}: the row has no EncodedPixels; it is cut short"
                    )
                codes.setdefault(row["ImageId"], []).append(row["EncodedPixels"])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MsdmError(
            f"{path} is no CSV that can be read ({error}); it must be UTF-8 with commas"
        ) from None
    for id, rows in codes.items():
        image = source.need_image(path, id)
        yield ForeignField(
            id, source.relative(path), partial(_read_codes, path, id, rows, image, source.kind)
        )


def _read_codes(path: Path, id: str, rows: Sequence[str], image: Path, kind: str) -> Content:
    size = picture_size(image)
    canvas = Canvas(size, f"{path}, {id}")
    for label, code in enumerate(filter(str.strip, rows), 1):  # a field without nuclei has an empty code
        canvas.runs(kind, label, from_pairs(code, size, f"{path}, {id}"))
    return canvas.content(read_picture(image))
