"""Precision and recall, density and coverage: does a set of features lie where the real one does?

Precision and recall are those of Kynkaanniemi et al. (NeurIPS 2019), density and coverage those of Naeem et
al. (ICML 2020). Each row has a ball whose radius is the distance to its k-th nearest neighbour in its own
set.

precision  synthetic rows within the ball of at least one real row: are they realistic?
recall     real rows within the ball of at least one synthetic row: are they all there?
density    real balls that a synthetic row lies in, over k: precision that outliers cannot inflate; above 1
           where synthetic rows crowd where real rows are dense
coverage   real balls with a synthetic row in them: recall that outliers cannot inflate
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError
from .base import FeatureMetric, Features
from .transport import ground_cost

K = 5
"""Neighbours, as in Naeem et al."""
_BLOCK = 2**23
"""Distances that are held at once."""


def radii(features: Features, k: int = K) -> NDArray[np.float64]:
    """Distance of each row to its k-th nearest other row, (N,) float64.

    A set of k rows or fewer takes the farthest.

    Raises
    ------
    MsdmError
        There are fewer than 2 rows.
    """
    if len(features) < 2:
        raise MsdmError(f"neighbours among {len(features)} rows; each set needs at least 2")
    k = min(k, len(features) - 1)
    # the 0-th nearest is the row itself, or one equal to it
    return np.concatenate([np.partition(block, k, axis=1)[:, k] for _, block in blocks(features, features)])


def blocks(a: Features, b: Features) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Distances of some rows of `a` to all of `b`: the first row, and (rows, M) float64."""
    rows = max(1, _BLOCK // max(1, len(b)))
    for start in range(0, len(a), rows):
        yield start, ground_cost(a[start : start + rows], b)


def precision(real: Features, synthetic: Features, rng: np.random.Generator | None = None) -> float:
    """Share of synthetic rows within a ball of a real row, in [0, 1]."""
    reach = radii(real)
    return float(np.mean(np.concatenate([(d <= reach).any(axis=1) for _, d in blocks(synthetic, real)])))


def recall(real: Features, synthetic: Features, rng: np.random.Generator | None = None) -> float:
    """Share of real rows within a ball of a synthetic row, in [0, 1]."""
    return precision(synthetic, real)


def density(real: Features, synthetic: Features, rng: np.random.Generator | None = None) -> float:
    """Mean number of real balls that a synthetic row lies in, over k; not negative."""
    reach, k = radii(real), min(K, len(real) - 1)
    return float(sum((d <= reach).sum() for _, d in blocks(synthetic, real)) / (k * len(synthetic)))


def coverage(real: Features, synthetic: Features, rng: np.random.Generator | None = None) -> float:
    """Share of real rows with a synthetic row in their ball, in [0, 1]."""
    reach = radii(real)
    nearest = np.concatenate([d.min(axis=1) for _, d in blocks(real, synthetic)])
    return float(np.mean(nearest <= reach))


PRECISION = FeatureMetric("precision", "Precision", "higher", 50, precision)
RECALL = FeatureMetric("recall", "Recall", "higher", 50, recall)
DENSITY = FeatureMetric("density", "Density", "higher", 50, density)
COVERAGE = FeatureMetric("coverage", "Coverage", "higher", 50, coverage)
