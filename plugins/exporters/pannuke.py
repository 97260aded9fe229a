"""PanNuke: a fold of three .npy files (Gamper et al. 2020, arXiv 2003.10778)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import MsdmError, did_you_mean
from ..importers.pannuke import CLASSES
from .base import ExportedField, Exporter, Plan
from .files import save_array

FOLD = "fold1"
_IMAGES, _MASKS = f"images/{FOLD}/images.npy", f"masks/{FOLD}/masks.npy"
_ORGAN = "organ"
_CHANNEL = {name.casefold(): k for k, name in enumerate(CLASSES)}


class PanNuke(Exporter):
    """All fields in `images/fold1/images.npy` and `masks/fold1/masks.npy`, filled in place.

    Images are uint8 (N, H, W, 3). Masks are int32 (N, H, W, 6): a channel per class, and the sixth is 1 where
    there is no instance. `types.npy` has the manifest's column `organ`, where there is one.
    """

    def names(self, ids: Sequence[str]) -> list[str]:
        return [f"{FOLD}_{k:05d}" for k in range(len(ids))]

    def write(self, folder: Path, plan: Plan, exported: ExportedField) -> str | None:
        (kind,) = plan.kinds
        labels = exported.masks[kind]
        if labels.shape != plan.size:
            raise MsdmError(
                f"{exported.image_path.stem} is {labels.shape[0]} x {labels.shape[1]} and the first field "
                f"{plan.size[0]} x {plan.size[1]}, and PanNuke holds fields of one size; export those of a "
                "size with --select"
            )
        channels = np.zeros(int(labels.max()) + 1, np.int64)
        channels[0] = 5
        if plan.classes.get(kind):
            channels[1:] = [_channel(exported, kind, label) for label in range(1, len(channels))]
        planes = np.zeros((*plan.size, 6), np.int32)
        np.put_along_axis(planes, channels[labels][..., None], np.maximum(labels, 1)[..., None], axis=2)
        for name, array in ((_IMAGES, exported.image), (_MASKS, planes)):
            stack = np.load(folder / name, mmap_mode="r+", allow_pickle=False)
            stack[exported.index] = array
        return exported.row.get(_ORGAN)

    def gather(self, folder: Path, plan: Plan, written: Iterator[Any]) -> list[str]:
        for name, shape, dtype in ((_IMAGES, 3, np.uint8), (_MASKS, 6, np.int32)):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            np.lib.format.open_memmap(path, "w+", dtype, (plan.fields, *plan.size, shape))
        organs = list(written)
        if all(organ is not None for organ in organs):
            save_array(folder / "images" / FOLD / "types.npy", np.array(organs, dtype=np.str_))
        if not plan.classes.get(plan.kinds[0]):
            return [f"the data have no classes: all instances are in the first channel, {CLASSES[0]}"]
        return []


def _channel(exported: ExportedField, kind: str, label: int) -> int:
    name = exported.classes.get(kind, {}).get(label)
    if name is None or name.casefold() not in _CHANNEL:
        what = "no class" if name is None else f"the class {name!r}"
        advice = did_you_mean(name or "", CLASSES)
        raise MsdmError(
            f"{exported.image_path.stem}: an instance has {what}, and PanNuke has five; {advice}, in "
            "instances.csv"
        )
    return _CHANNEL[name.casefold()]
