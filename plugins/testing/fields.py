"""Small fields of cells with nuclei, made up, for the checks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...core.images import save_image, save_labels
from ...core.manifest import write_manifest
from ...core.sample import Image, Labels, Sample

SIDE = 16
ASSAYS = ("purple", "brown stain")


def painted(i: int, size: tuple[int, int], cells: int = 2) -> tuple[Image, dict[str, Labels]]:
    """An image (3, H, W) in [-1, 1] of cells with their nuclei in a row, and the masks of both."""
    rng = np.random.default_rng(i)
    height, width = size
    y, x = np.mgrid[:height, :width]
    cell, nucleus = np.zeros(size, np.int32), np.zeros(size, np.int32)
    reach = min(height, width / max(cells, 1) * 2)
    for k in range(1, cells + 1):
        centre = np.array([height / 2, width * k / (cells + 1)]) + rng.uniform(-0.05, 0.05, 2) * reach
        distance = np.hypot(y - centre[0], x - centre[1])
        cell[distance < reach / 7] = k
        nucleus[distance < reach / 12] = k
    image = np.stack([0.8 - 0.4 * (cell > 0), 0.7 - 0.8 * (nucleus > 0), 0.8 - 0.1 * (cell > 0)])
    image = np.clip(image + 0.05 * rng.standard_normal(image.shape), -1, 1)
    return image.astype(np.float32), {"cell": cell, "nucleus": nucleus}


def toy_sample(i: int = 0, size: tuple[int, int] = (SIDE, SIDE), cells: int = 2) -> Sample:
    """A field with masks ``cell`` and ``nucleus`` and the columns ``assay`` and ``indication``."""
    image, masks = painted(i, size, cells)
    words = {"id": f"f{i:02d}", "assay": ASSAYS[i % 2], "indication": f"organ {i % 3}"}
    return Sample(words["id"], masks, image, words)


def toy_folder(root: Path, splits: Sequence[str], size: tuple[int, int] = (40, 40)) -> Path:
    """A data set in the documented layout, one field for each of `splits`."""
    rows = []
    for i, split in enumerate(splits):
        sample = toy_sample(i, size)
        assert sample.image is not None
        save_image(root / "images" / f"{sample.id}.png", sample.image)
        save_labels(root / "cells" / f"{sample.id}.png", sample.masks["cell"])
        save_labels(root / "nuclei" / f"{sample.id}.png", sample.masks["nucleus"])
        rows.append({**sample.metadata, "split": split})
    write_manifest(root / "metadata.csv", rows)
    return root
