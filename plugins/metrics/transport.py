"""Wasserstein distances of order 1 between two sets of features.

The MSDM paper compares sets of embeddings by "the Wasserstein distance" and does not say which. These are:

`wasserstein`           W1 of the empirical measures with Euclidean ground cost, exact
`sliced_wasserstein`    the mean over random directions of W1 of the projections
`marginal_wasserstein`  the mean over features of W1 of each alone

Each has the unit of the features. W1 of two samples of one distribution is not 0: it falls only as fast as
n^(-1/D) for n rows of D features (Weed and Bach, Bernoulli 25:2620, 2019), so a distance is read beside that
of two samples of real images of the same size.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError
from .base import FeatureMetric, Features

Distances = NDArray[np.float64]

PROJECTIONS = 128
"""Random directions of the sliced distance."""
_PIVOTS = 10_000_000


def ground_cost(a: Features, b: Features) -> Distances:
    """Euclidean distances between rows, (N, M) float64.

    They are summed from differences and not from scalar products, which lose half the digits of a small one.
    """
    from scipy.spatial.distance import cdist

    found: Distances = cdist(np.asarray(a, np.float64), np.asarray(b, np.float64))
    return found


def transport_cost(cost: Distances) -> float:
    """The least mean cost of moving one uniform measure to another.

    Parameters
    ----------
    cost : ndarray (N, M) float64
        Of moving each row to each column; not negative.

    Returns
    -------
    float
        With N = M an optimal plan is a permutation (Birkhoff and von Neumann), found by the Hungarian
        algorithm; otherwise by the network simplex of POT (Flamary et al., JMLR 22:78, 2021).

    Raises
    ------
    MsdmError
        There are no rows or no columns, or the solver did not end.
    """
    rows, columns = cost.shape
    if not rows or not columns:
        raise MsdmError(f"a distance between {rows} and {columns} rows; each set needs at least one")
    if min(rows, columns) == 1:
        return float(cost.mean())
    if rows == columns:
        from scipy.optimize import linear_sum_assignment

        i, j = linear_sum_assignment(cost)
        return float(cost[i, j].mean())
    value, log = _network_simplex()([], [], cost, numItermax=_PIVOTS, log=True)
    if log["warning"] is not None:
        raise MsdmError(
            f"the transport of {rows} to {columns} rows did not end: {log['warning']}; take fewer"
        )
    return float(value)


@cache
def _network_simplex() -> Callable[..., Any]:
    import ot

    solver: Callable[..., Any] = ot.emd2
    return solver


def wasserstein(real: Features, synthetic: Features, rng: np.random.Generator | None = None) -> float:
    """W1 with Euclidean ground cost, exact: see `transport_cost`. Memory: 8 N M bytes."""
    return transport_cost(ground_cost(real, synthetic))


def sliced_wasserstein(
    real: Features, synthetic: Features, rng: np.random.Generator, projections: int = PROJECTIONS
) -> float:
    """Mean of W1 over projections on random directions (Bonneel et al., J. Math. Imaging Vis. 51:22, 2015).

    Parameters
    ----------
    real : ndarray (N, D)
    synthetic : ndarray (M, D)
    rng : Generator
        Draws the directions, uniform on the sphere.
    projections : int
    """
    directions = rng.normal(size=(projections, real.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return float(line_distances(real @ directions.T, synthetic @ directions.T).mean())


def marginal_wasserstein(
    real: Features, synthetic: Features, rng: np.random.Generator | None = None
) -> float:
    """Mean over the features of W1 of each alone."""
    return float(line_distances(real, synthetic).mean())


def line_distances(a: NDArray[Any], b: NDArray[Any]) -> Distances:
    """W1 on the line for each column: the mean distance of equal quantiles.

    Parameters
    ----------
    a : ndarray (N, D)
    b : ndarray (M, D)

    Returns
    -------
    ndarray (D,) float64
        The integral over q in [0, 1] of |F_a^-1(q) - F_b^-1(q)|.
    """
    a, b = (np.sort(np.asarray(x, np.float64), axis=0) for x in (a, b))
    n, m = len(a), len(b)
    if n == m:
        return np.asarray(np.abs(a - b).mean(axis=0))
    # both quantile functions are constant between neighbours among the steps i/n and j/m
    steps = np.unique(np.concatenate([np.arange(1, n + 1) * m, np.arange(1, m + 1) * n]))
    width = np.diff(steps, prepend=0) / (n * m)
    return np.asarray(width @ np.abs(a[(steps - 1) // m] - b[(steps - 1) // n]))


WASSERSTEIN = FeatureMetric("wasserstein", "Wasserstein distance W1", "lower", 20, wasserstein, most=2000)
SLICED = FeatureMetric("sliced_wasserstein", "Sliced Wasserstein distance", "lower", 20, sliced_wasserstein)
MARGINAL = FeatureMetric(
    "marginal_wasserstein", "Wasserstein distance per feature", "lower", 20, marginal_wasserstein
)
