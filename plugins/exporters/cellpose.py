"""Cellpose: `x.tif` with `x_masks.tif` (Stringer et al. 2021; Cellpose's documentation, Inputs)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .base import ExportedField, Exporter, Plan
from .files import save_tiff

MIN_MASKS = 5
"""`min_train_masks` of `cellpose.train.train_seg`: images with fewer are left out of training."""
# Names that Cellpose takes for its own output, not for a picture (cellpose.io.get_image_files).
_RESERVED = (
    "_masks",
    "_cp_output",
    "_flows",
    "_flows_0",
    "_flows_1",
    "_flows_2",
    "_cellprob",
    "_img",
    "_seg",
)


class Cellpose(Exporter):
    """Pictures and label maps side by side, for ``--dir OUT --mask_filter _masks``.

    A field whose name ends as Cellpose's own files do gets ``_`` after it.
    """

    def names(self, ids: Sequence[str]) -> list[str]:
        return [f"{id}_" if id.endswith(_RESERVED) else id for id in ids]

    def write(self, folder: Path, plan: Plan, exported: ExportedField) -> int:
        (labels,) = exported.masks.values()
        save_tiff(folder / f"{exported.name}.tif", exported.image)
        save_tiff(folder / f"{exported.name}_masks.tif", labels)
        return int(labels.max())

    def gather(self, folder: Path, plan: Plan, written: Iterator[Any]) -> list[str]:
        few = sum(count < MIN_MASKS for count in written)
        if not few:
            return []
        return [
            f"{few} of {plan.fields} fields have fewer than {MIN_MASKS} masks, and Cellpose leaves such out "
            "of training; to keep them, train with --min_train_masks 1"
        ]
