"""CoNSeP's layout: `Images/x.png`, `Labels/x.mat` (Graham et al. 2019, arXiv 1812.06499)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .base import ExportedField, Exporter, Plan
from .files import save_png
from .numbers import types_of, untyped_note, write_type_info


class CoNSeP(Exporter):
    """What HoVer-Net's `extract_patches.py` reads.

    A .mat has `inst_map`, `type_map`, `inst_type` (n x 1), `inst_centroid` (n x 2: x, y), all float64 as in
    CoNSeP. Without classes it has `inst_map` and `inst_centroid`.
    """

    def write(self, folder: Path, plan: Plan, exported: ExportedField) -> int:
        from scipy.io import savemat

        labels, types = types_of(exported, plan)
        content = {"inst_map": labels.astype(np.float64), "inst_centroid": _centroids(labels)}
        if types.any():
            content["type_map"] = np.concatenate([[0], types])[labels].astype(np.float64)
            content["inst_type"] = types[:, None].astype(np.float64)
        save_png(exported, folder / "Images" / f"{exported.name}.png")
        path = folder / "Labels" / f"{exported.name}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, content, appendmat=False, do_compression=True)
        return int((types == 0).sum())

    def gather(self, folder: Path, plan: Plan, written: Iterator[Any]) -> list[str]:
        write_type_info(folder, plan)
        return untyped_note(plan, sum(written))


def _centroids(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Mean column and row of each instance, in the order of the labels."""
    rows, columns = np.nonzero(labels)
    flat = labels[rows, columns]
    size = np.bincount(flat)[1:]
    return np.stack([np.bincount(flat, weights=axis)[1:] / size for axis in (columns, rows)], axis=1)
