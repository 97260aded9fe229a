"""Label masks that look like cells, and what a poor segmenter makes of them."""

import numpy as np


def discs(seed: int, side: int = 96, count: int = 14) -> np.ndarray:
    """(side, side) int32: discs that touch and cover each other, cut by the border; labels with gaps."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.int32)
    for label in rng.permutation(3 * count)[:count] + 1:
        row, column = rng.uniform(0, side, 2)
        stretch, radius = rng.uniform(0.7, 1.4), rng.uniform(4, 10)
        labels[np.hypot((y - row) * stretch, (x - column) / stretch) < radius] = label
    return labels


def disturbed(labels: np.ndarray, seed: int) -> np.ndarray:
    """The instances shifted, some left out, two fused, one cut in two, one too many; other labels."""
    rng = np.random.default_rng(seed)
    found = np.zeros_like(labels)
    ids = np.unique(labels[labels > 0])
    for id in ids:
        if rng.random() > 0.15:
            found[np.roll(labels == id, rng.integers(-2, 3, 2), (0, 1))] = id
    if len(ids) > 3:
        found[found == ids[0]] = ids[1]
        rows, columns = np.nonzero(found == ids[2])
        half = rows > rows.mean() if len(rows) else rows > 0
        found[rows[half], columns[half]] = labels.max() + 1
    found[:4, :5] = labels.max() + 2
    return relabelled(found, seed)


def relabelled(labels: np.ndarray, seed: int) -> np.ndarray:
    """The same instances with other labels, in another order and with gaps."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.arange(1, 2 * int(labels.max()) + 2)).astype(np.int32)
    return np.where(labels > 0, names[labels], 0).astype(np.int32)
