"""Fields of dark discs on a bright ground, which a network learns to segment within seconds."""

import numpy as np

from msdm_kit.core.sample import Sample


def disc_field(seed: int, *, size: int = 80, discs: int = 7, kind: str = "nucleus") -> Sample:
    """A field with discs of radius 6 to 9 that do not touch, labelled 1 to n."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.int32)
    rows, columns = np.mgrid[:size, :size]
    for _ in range(300):
        row, column = rng.integers(9, size - 9, 2)
        radius = int(rng.integers(6, 10))
        distance = (rows - row) ** 2 + (columns - column) ** 2
        if labels.max() < discs and not labels[distance <= (radius + 2) ** 2].any():
            labels[distance <= radius**2] = labels.max() + 1
    ground = np.where(labels > 0, np.array([-0.3, -0.5, 0.1])[:, None, None], 0.7)
    image = (ground + rng.normal(0, 0.05, ground.shape)).clip(-1, 1).astype(np.float32)
    return Sample(id=f"d{seed}", masks={kind: labels}, image=image, metadata={"assay": "discs"})
