"""The repair of one field."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from ...core.fields import IMAGES
from ...core.images import RawImage, describe
from ..importers.base import Content
from ..importers.writing import MAX_LABEL, write_field
from .field import Picture, read_files
from .instances import PART, is_foreground, owners, pieces

Wide = NDArray[np.int64]


@dataclass(frozen=True)
class Change:
    """One change: the file in the source, the instance, what was done, and to how much."""

    file: str
    instance: str
    change: str
    value: str


@dataclass
class Repaired:
    """A field after its repair.

    Attributes
    ----------
    kept : bool
        False: it cannot be repaired, and nothing was written.
    changes : list of Change
    origins : dict of kind -> dict of label -> label
        The label in the source of every instance that was written.
    """

    kept: bool = False
    changes: list[Change] = field(default_factory=list)
    origins: dict[str, dict[int, int]] = field(default_factory=dict)


class _Unrepairable(Exception):
    def __init__(self, file: str, value: str) -> None:
        super().__init__(value)
        self.change = Change(file, "", "field left out", value)


def repair_field(root: Path, out: Path, kinds: Sequence[str], speck: int, id: str) -> Repaired:
    """Write a repaired field as PNG.

    In this order: grey, palette and transparent images become RGB (transparency on white); masks of other
    types become labels where their pixels are whole numbers from 0; of an instance in pieces the largest
    keeps the number, a piece with at least a quarter of its pixels becomes an instance with the next free
    number, smaller ones are dropped (where one number stands for all of the foreground, every piece becomes
    an instance); specks are dropped; nuclei are cut to the cell that holds most of them, and dropped where
    none does; pieces and specks that the cut made are treated likewise; masks without instances are left
    out; numbers beyond 65535 are given anew, the same in all masks.

    Parameters
    ----------
    root, out : Path
    kinds : sequence of str
        Mask kinds that the data folder has.
    speck : int
        Instances of fewer pixels are dropped.
    id : str

    Returns
    -------
    Repaired

    Raises
    ------
    MsdmError
        The field cannot be written.
    """
    done = Repaired()
    try:
        image, masks, files = _read(root, id, kinds, done.changes)
        origins = {kind: _identity(mask) for kind, mask in masks.items()}
        free = max((int(mask.max()) for mask in masks.values()), default=0) + 1
        for kind in sorted(masks):  # cells before nuclei: they are cut to the cells that are left
            free = _tidy(masks[kind], origins[kind], files[kind], speck, free, done.changes)
            # a mask without cells says nothing of where nuclei may lie
            if kind == "nucleus" and "cell" in masks and masks["cell"].any():
                _cut(masks["nucleus"], masks["cell"], files["nucleus"], done.changes)
                free = _tidy(masks[kind], origins[kind], files[kind], speck, free, done.changes)
        for kind in list(masks):
            if not masks[kind].any():
                done.changes.append(Change(files[kind], "", "mask left out", "no instance is left"))
                del masks[kind]
        if not masks:
            raise _Unrepairable(f"{IMAGES}/{id}", "no instance is left")
        numbers = _renumber(masks, files, done.changes)
    except _Unrepairable as reason:
        done.changes.append(reason.change)
        return done
    write_field(out, id, Content(image, masks), id)
    for kind, mask in masks.items():
        present = np.unique(mask[mask > 0]).tolist()
        done.origins[kind] = {label: origins[kind][numbers.get(label, label)] for label in present}
    done.kept = True
    return done


def _read(
    root: Path, id: str, kinds: Sequence[str], changes: list[Change]
) -> tuple[RawImage, dict[str, Wide], dict[str, str]]:
    files = read_files(root, id, kinds)
    for finding in files.findings:
        if finding.kind != "missing-mask":
            raise _Unrepairable(finding.file, f"{finding.kind}: {finding.value}")
    assert files.image is not None
    image = _to_rgb(root, files.image, changes)
    masks = {}
    for kind, picture in files.masks.items():
        if picture.pixels.shape[:2] != image.shape[:2]:
            raise _Unrepairable(picture.name, "not of its image's size")
        masks[kind] = _to_labels(picture, changes)
    return image, masks, {kind: picture.name for kind, picture in files.masks.items()}


def _to_rgb(root: Path, picture: Picture, changes: list[Change]) -> RawImage:
    if picture.is_rgb:
        return picture.pixels.astype(np.uint8, copy=False)
    what = describe(picture.mode, picture.bits)
    if picture.bits > 8 or picture.mode not in ("1", "L", "LA", "P", "RGBA"):
        raise _Unrepairable(picture.name, f"{what}: choose how its levels become 8 bits of RGB")
    if picture.mode == "P":  # the pixels are numbers of colours
        with Pillow.open(root / picture.name, formats=("PNG", "TIFF")) as file:
            raw = file.convert("RGBA")
    else:
        raw = Pillow.fromarray(picture.pixels).convert("RGBA")
    white = Pillow.new("RGBA", raw.size, (255, 255, 255, 255))
    changes.append(Change(picture.name, "", "converted to RGB", what))
    return np.asarray(Pillow.alpha_composite(white, raw).convert("RGB"))


def _to_labels(picture: Picture, changes: list[Change]) -> Wide:
    pixels: NDArray[Any] = picture.pixels
    if not picture.is_labels:
        what = describe(picture.mode, picture.bits)
        if pixels.ndim == 3:
            if picture.mode in ("LA", "RGBA"):
                pixels = pixels[..., :-1]
            if (pixels != pixels[..., :1]).any() or picture.bits > 8:
                raise _Unrepairable(picture.name, f"{what}: colours are no numbers of instances")
            pixels = pixels[..., 0]
        # infinities and what is no number are not below the limit either
        if pixels.dtype.kind == "f" and not ((np.abs(pixels) < 2**31) & (pixels == np.rint(pixels))).all():
            raise _Unrepairable(picture.name, f"{what}: not whole numbers")
        changes.append(Change(picture.name, "", "converted to uint16 labels", what))
    labels = pixels.astype(np.int64)
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= 2**31:
        raise _Unrepairable(picture.name, f"labels from {labels.min()} to {labels.max()}")
    return labels


def _identity(labels: Wide) -> dict[int, int]:
    return {label: label for label in np.unique(labels[labels > 0]).tolist()}


def _tidy(
    labels: Wide, origins: dict[int, int], file: str, speck: int, free: int, changes: list[Change]
) -> int:
    """Pieces and specks, in place; the next free number."""
    found = pieces(labels)
    foreground = is_foreground(found)
    number = found.label.copy()
    dropped: dict[int, list[int]] = {}
    count = np.unique(found.label[1:], return_counts=True)
    for label in count[0][count[1] > 1].tolist():
        # the largest first; of equals, the first in reading order
        mine = sorted(np.flatnonzero(found.label == label).tolist(), key=lambda p: -int(found.area[p]))
        for piece in mine[1:]:
            if foreground or found.area[piece] * PART >= found.area[mine[0]]:
                number[piece], origins[free] = free, origins[label]
                changes.append(
                    Change(file, str(label), "piece numbered", f"{found.area[piece]} pixels, now {free}")
                )
                free += 1
            else:
                number[piece] = 0
                dropped.setdefault(label, []).append(int(found.area[piece]))
    for label, areas in dropped.items():
        changes.append(Change(file, str(label), "pieces dropped", f"{len(areas)} of {sum(areas)} pixels"))
    for piece in np.flatnonzero((number > 0) & (found.area < speck)).tolist():
        changes.append(Change(file, str(number[piece]), "speck dropped", f"{found.area[piece]} pixels"))
        number[piece] = 0
    labels[...] = number[found.map]
    return free


def _cut(nuclei: Wide, cells: Wide, file: str, changes: list[Change]) -> None:
    """Take from nuclei what lies out of their cells, in place."""
    belongs = owners(nuclei, cells)
    keys = np.array(sorted(belongs), np.int64)
    if not len(keys):
        return
    cell_of = np.array([belongs[key][0] for key in keys.tolist()], np.int64)
    wanted = cell_of[np.searchsorted(keys, nuclei).clip(0, len(keys) - 1)]
    out = (nuclei > 0) & ((cells != wanted) | (wanted == 0))
    for key, (owner, outside, across) in belongs.items():
        if not owner:
            changes.append(Change(file, str(key), "nucleus dropped", "no cell"))
        elif outside + across:
            changes.append(
                Change(file, str(key), "nucleus cut", f"{outside + across} pixels out of cell {owner}")
            )
    nuclei[out] = 0


def _renumber(masks: dict[str, Wide], files: dict[str, str], changes: list[Change]) -> dict[int, int]:
    """Numbers that fit 16 bits, in place, the same in all masks; the old number by the new one."""
    if max(int(mask.max()) for mask in masks.values()) <= MAX_LABEL:
        return {}
    old = np.unique(np.concatenate([np.unique(mask) for mask in masks.values()] + [np.zeros(1, np.int64)]))
    if len(old) - 1 > MAX_LABEL:
        raise _Unrepairable(
            next(iter(files.values())), f"{len(old) - 1} instances, and 16 bits hold {MAX_LABEL}"
        )
    for kind, mask in masks.items():
        mask[...] = np.searchsorted(old, mask)
        changes.append(Change(files[kind], "", "relabelled", f"from up to {old[-1]} to {len(old) - 1}"))
    return dict(enumerate(old.tolist()))
