"""The files of a data set: where they lie, and what is wrong with them.

images/<id>.png    RGB, 8 bits
cells/<id>.png     labels of kind `cell`, uint16 or uint8, 0 is background
nuclei/<id>.png    labels of kind `nucleus`; other kinds lie in a folder of their own name
metadata.csv       one row per field, with a column `id`
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import MsdmError
from .images import SUFFIXES, RawImage, RawLabels, read_image, read_labels
from .manifest import read_manifest, select_split

MANIFEST = "metadata.csv"
IMAGES = "images"
JOB, JOB_SUMMARY = "job.json", "summary.json"
"""Beside the manifest of painted fields: what the job is that paints them, and, at its end, what it did."""
HASHES = "sha256_"
"""How the manifest's columns with the SHA-256 of a field's files begin; the name of their folder follows."""
CLASSES_HASH = "classes_sha256"
"""The manifest's column with the SHA-256 of the classes of a field's instances."""
_PLURALS = {"cell": "cells", "nucleus": "nuclei"}
_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RawField:
    """A field as it is on disc.

    Attributes
    ----------
    image : ndarray (H, W, 3) uint8, or None
        None where there is none and none is needed.
    masks : dict of kind -> ndarray (H, W) uint8 or uint16
    """

    image: RawImage | None
    masks: dict[str, RawLabels]

    @property
    def nbytes(self) -> int:
        arrays = [*self.masks.values(), *([] if self.image is None else [self.image])]
        return sum(array.nbytes for array in arrays)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        array = self.image if self.image is not None else next(iter(self.masks.values()))
        return int(array.shape[0]), int(array.shape[1])


def mask_folder(kind: str) -> str:
    """The folder of a mask kind: ``cells``, ``nuclei``, or the kind itself.

    Raises
    ------
    MsdmError
        `kind` cannot name a folder.
    """
    if not _KIND.fullmatch(kind) or kind == IMAGES:
        raise MsdmError(
            f"mask kind {kind!r} cannot name a folder; use letters, digits, '-' and '_', not images"
        )
    return _PLURALS.get(kind, kind)


def hash_column(folder: str) -> str:
    """The manifest's column with the SHA-256 of the file of each field in a folder: ``sha256_images``."""
    return HASHES + folder


def without_hashes(row: Mapping[str, str]) -> dict[str, str]:
    """A manifest row without hashes: for a field whose files are written anew."""
    return {name: text for name, text in row.items() if not name.startswith(HASHES) and name != CLASSES_HASH}


def can_name_folder(name: str) -> bool:
    """Whether a text is of the form of a folder's name, and nothing more."""
    return _KIND.fullmatch(name) is not None


def mask_kinds(root: Path) -> tuple[str, ...]:
    """The kinds of mask that a data folder has: its folders but ``images``, in alphabetical order."""
    kinds = {folder: kind for kind, folder in _PLURALS.items()}
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name != IMAGES)
    return tuple(kinds.get(name, name) for name in names if _KIND.fullmatch(name))


def open_manifest(
    root: Path, kinds: Sequence[str], split: str | None, limit: int | None, images: bool = True
) -> list[dict[str, str]]:
    """The manifest's rows of a split, once the folders are known to be there, that of `images` too if needed.

    Raises
    ------
    MsdmError
        A folder or the manifest is missing or wrong, no row is of the split, or `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise MsdmError(f"limit {limit} takes no fields; give at least 1, or none at all for every field")
    folders = [*([IMAGES] if images else []), *map(mask_folder, kinds)]
    if not root.is_dir():
        raise MsdmError(f"folder {root} is missing; give one that holds {MANIFEST}, {', '.join(folders)}")
    rows = select_split(read_manifest(root / MANIFEST), split, root / MANIFEST)
    for folder in folders:
        if not (root / folder).is_dir():
            raise MsdmError(
                f"folder {root / folder} is missing; for mask kinds {', '.join(kinds)} (data.masks of the "
                f"recipe) a data set has {MANIFEST}, {', '.join(folders)}"
            )
    return rows[:limit]


def read_field(
    root: Path, id: str, kinds: Sequence[str], images: bool = True
) -> tuple[RawField | None, list[str]]:
    """Read and check the files of one field.

    Parameters
    ----------
    root : Path
    id : str
        Known to name a file.
    kinds : sequence of str
    images : bool
        False: the field may lack its image.

    Returns
    -------
    RawField or None
        None where anything is wrong.
    list of str
        What is wrong, one line each.
    """
    problems: list[str] = []
    image: RawImage | None = None
    masks: dict[str, RawLabels] = {}
    size: tuple[int, ...] | None = None
    what = "its image"
    try:
        if images or has_file(root / IMAGES, id):
            image = read_image(locate(root / IMAGES, id))
            size = image.shape[:2]
    except MsdmError as error:
        problems.append(str(error))
    for kind in kinds:
        try:
            path = locate(root / mask_folder(kind), id)
            masks[kind] = labels = read_labels(path)
        except MsdmError as error:
            problems.append(str(error))
            continue
        if size is None and not images:
            size, what = labels.shape, f"the {kind} mask"
        if size is not None and labels.shape != size:
            problems.append(
                f"{path} is {labels.shape[0]} x {labels.shape[1]}, and {what} is {size[0]} x "
                f"{size[1]}; give both one height and width"
            )
        elif not labels.any():
            problems.append(
                f"{path} has no instance, every pixel is 0; a mask holds at least one {kind}: label it or "
                f"delete the row of {id!r} from {MANIFEST}"
            )
    return (None if problems else RawField(image, masks)), problems


def has_one_label_in_pieces(labels: RawLabels) -> bool:
    """Whether one label alone lies in several places, as in a picture of 0 and 255."""
    inside = labels > 0
    if not inside.any() or labels[inside].min() != labels.max():
        return False
    from scipy.ndimage import label

    return int(label(inside, np.ones((3, 3)))[1]) > 1


def scan(
    root: Path,
    ids: Sequence[str],
    kinds: Sequence[str],
    on_progress: Progress | None = None,
    images: bool = True,
) -> Iterator[tuple[RawField | None, list[str]]]:
    """`read_field` for each id in order, in several threads: decoding releases the interpreter's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for done, result in enumerate(pool.map(lambda id: read_field(root, id, kinds, images), ids), 1):
                if on_progress is not None:
                    on_progress(done, len(ids))
                yield result
        finally:
            # Ctrl-C must not wait for the fields that are still in the queue.
            pool.shutdown(cancel_futures=True)


def check_fields(
    root: str | os.PathLike[str],
    *,
    masks: Sequence[str] = ("cell", "nucleus"),
    split: str | None = None,
    limit: int | None = None,
    on_progress: Progress | None = None,
) -> list[str]:
    """Everything that is wrong with a data set.

    Parameters
    ----------
    root : path
    masks : sequence of str
        Kinds that must be present.
    split : str or None
        Check the rows of one split; None checks all.
    limit : int or None
        Check the first rows only.
    on_progress : callable (done, total) or None

    Returns
    -------
    list of str
        One line each, naming the file and what was found; empty where all is well. A missing folder or a
        wrong manifest stands alone: nothing can be looked up without it.
    """
    root = Path(root)
    try:
        rows = open_manifest(root, masks, split, limit)
    except MsdmError as error:
        return [str(error)]
    found = scan(root, [row["id"] for row in rows], masks, on_progress)
    return [problem for _, problems in found for problem in problems]


def summary(problems: Sequence[str]) -> str:
    """The first of several problems and the number of the others, in one line."""
    more = f" (+{len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{problems[0]}{more}"


def has_file(folder: Path, id: str) -> bool:
    """Whether a field has a file in one of the folders, whatever its suffix."""
    return any((folder / f"{id}{suffix}").is_file() for suffix in SUFFIXES)


def locate(folder: Path, id: str) -> Path:
    """The file of a field in one of the folders, whatever its suffix.

    Raises
    ------
    MsdmError
        There is none, or there are several.
    """
    paths = [path for suffix in SUFFIXES if (path := folder / f"{id}{suffix}").is_file()]
    if len(paths) > 1:
        raise MsdmError(f"{paths[0]} and {paths[1].name} are both there; keep one file per field")
    if not paths:
        raise MsdmError(
            f"{folder / id}.png is missing (nor is there a .tif or .tiff), and {MANIFEST} lists {id!r}; add "
            f"the file or delete the row"
        )
    return paths[0]
