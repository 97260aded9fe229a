"""An imported field on disc, in the layout of core/fields.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from ...core.errors import MsdmError
from ...core.fields import IMAGES, mask_folder
from .base import Content, LabelMap

MAX_LABEL = 65535
"""Of a uint16 mask."""
# Level 1 takes a quarter of the time of Pillow's 6, and a sixth more space on histology.
_LEVEL = 1


@dataclass(frozen=True)
class Written:
    """What was written of a field.

    Attributes
    ----------
    image : bool
    instances : dict of kind -> int
        Their number; empty where there is none of any kind, and then nothing was written.
    classes : dict of kind -> dict of label -> str
        By the labels that were written.
    lost : int
        As in `Content`.
    """

    image: bool
    instances: dict[str, int] = field(default_factory=dict)
    classes: dict[str, dict[int, str]] = field(default_factory=dict)
    lost: int = 0


def write_field(folder: Path, id: str, content: Content, where: str) -> Written:
    """Write the image and the masks of a field as PNG.

    Labels that do not fit 16 bits are renumbered, the same way in all masks of the field. A mask without
    instances is not written.

    Raises
    ------
    MsdmError
        The content is not of the shapes and types of `Content`, has too many instances, or cannot be written.
    """
    _check(content, where)
    present = {kind: np.unique(mask[mask > 0]) for kind, mask in content.masks.items()}
    present = {kind: labels for kind, labels in present.items() if len(labels)}
    if not present:
        return Written(content.image is not None, lost=content.lost)
    numbers = _numbers(present, where)
    if content.image is not None:
        _save(folder / IMAGES / f"{id}.png", content.image)
    classes: dict[str, dict[int, str]] = {}
    for kind, labels in present.items():
        mask = content.masks[kind]
        if numbers is not None:
            mask = np.where(mask > 0, np.searchsorted(numbers, mask) + 1, 0)
        _save(folder / mask_folder(kind) / f"{id}.png", mask.astype(np.uint16))
        named = content.classes.get(kind, {})
        new = labels if numbers is None else np.searchsorted(numbers, labels) + 1
        found = {
            n: named[old] for old, n in zip(labels.tolist(), new.tolist(), strict=True) if named.get(old)
        }
        if found:
            classes[kind] = found
    counts = {kind: len(labels) for kind, labels in present.items()}
    return Written(content.image is not None, counts, classes, content.lost)


def _check(content: Content, where: str) -> None:
    image = content.image
    if image is not None and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3):
        raise MsdmError(
            f"{where}: the image has shape {image.shape} of {image.dtype}; legal is (H, W, 3) of uint8"
        )
    size = image.shape[:2] if image is not None else None
    for kind, mask in content.masks.items():
        if mask.ndim != 2 or mask.dtype.kind not in "iu" or (mask.size and mask.min() < 0):
            raise MsdmError(
                f"{where}: the {kind} mask has shape {mask.shape} of {mask.dtype}; legal is (H, W) of whole "
                "numbers "
                f"from 0"
            )
        size = size or mask.shape
        if mask.shape != size:
            raise MsdmError(
                f"{where}: the {kind} mask is {mask.shape[0]} x {mask.shape[1]}, and the field {size[0]} x "
                f"{size[1]}; is it of another picture?"
            )


def _numbers(present: Mapping[str, LabelMap], where: str) -> LabelMap | None:
    """The labels in the order of their new numbers, or None where they can stay."""
    if max(int(labels[-1]) for labels in present.values()) <= MAX_LABEL:
        return None
    # over all kinds, so that cell and nucleus of one label still have one label
    labels = np.unique(np.concatenate(list(present.values())))
    if len(labels) > MAX_LABEL:
        raise MsdmError(
            f"{where} has {len(labels)} instances, and a label mask of 16 bits holds {MAX_LABEL}; cut it "
            "into tiles"
        )
    return labels


def _save(path: Path, array: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(array).save(path, format="PNG", compress_level=_LEVEL)
    except OSError as error:
        raise MsdmError(f"cannot write {path.name}: {error}; check the space on the disc") from error
