"""HoVer-Net's training patches: `x.npy` of (H, W, 5) (Graham et al. 2019, arXiv 1812.06499)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .base import ExportedField, Exporter, Plan
from .files import save_array
from .numbers import types_of, untyped_note, write_type_info


class HoVerNet(Exporter):
    """Red, green, blue, instance and type as int32, as HoVer-Net's `extract_patches.py` writes them.

    Fields are written whole; HoVer-Net crops what it trains on from them.
    """

    def write(self, folder: Path, plan: Plan, exported: ExportedField) -> int:
        labels, types = types_of(exported, plan)
        of_pixel = np.concatenate([[0], types])[labels]
        array = np.dstack([exported.image, labels, of_pixel]).astype(np.int32)
        save_array(folder / f"{exported.name}.npy", array)
        return int((types == 0).sum())

    def gather(self, folder: Path, plan: Plan, written: Iterator[Any]) -> list[str]:
        write_type_info(folder, plan)
        return untyped_note(plan, sum(written))
