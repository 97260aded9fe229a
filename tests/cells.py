"""A clean data set of random cells, to make one thing wrong in."""

from pathlib import Path

import numpy as np
from PIL import Image

from msdm_kit.core.manifest import write_manifest

SIDE = 48


def cell_field(seed: int, side: int = SIDE) -> dict[str, np.ndarray]:
    """An image and masks of four cells, each in a quarter of its own, by folder."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    cells, nuclei = np.zeros((side, side), np.uint16), np.zeros((side, side), np.uint16)
    for k, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)], 1):
        centre = (np.array([row, column]) + 0.5) * side / 2 + rng.uniform(-3, 3, 2)
        radius, stretch = rng.uniform(5, 8), rng.uniform(0.8, 1.2)
        distance = np.hypot((y - centre[0]) * stretch, (x - centre[1]) / stretch)
        cells[distance < radius], nuclei[distance < radius * 0.6] = k, k
    image = np.where(cells[..., None] > 0, (225, 170, 200), (240, 235, 240))
    image = np.where(nuclei[..., None] > 0, (110, 70, 150), image) + rng.integers(-6, 7, (side, side, 3))
    return {"images": image.clip(0, 255).astype(np.uint8), "cells": cells, "nuclei": nuclei}


def cell_folder(root: Path, fields: int = 10) -> Path:
    """A data set `f0`, `f1` ... with nothing wrong."""
    rows = []
    for i in range(fields):
        for folder, array in cell_field(i).items():
            save(root / folder / f"f{i}.png", array)
        rows.append({"id": f"f{i}", "split": "train" if i < fields - 3 else "val", "assay": f"stain {i % 2}",
                     "indication": f"organ {i % 3}", "patient": f"p{i}"})  # fmt: skip
    write_manifest(root / "metadata.csv", rows)
    return root


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def load(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)
