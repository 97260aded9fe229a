"""One-to-one matching of instances: by overlap, or by the distance of their centres."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError

Indices = NDArray[np.int64]
Numbers = NDArray[np.float64]
_MOST = 2 * 10**7


def best_matching(
    rows: NDArray[np.integer[Any]],
    columns: NDArray[np.integer[Any]],
    weights: Numbers,
    shape: tuple[int, int],
) -> Indices:
    """The Hungarian matching: among all one-to-one matchings, the one with the largest sum of weights.

    Pairs that are not listed cannot be matched, and nothing must be matched, so that the work grows with the
    number of listed pairs and not with that of all: 1,000 instances with their neighbours take some
    milliseconds (Jonker and Volgenant, Computing 38:325, 1987, in scipy's form for sparse graphs).

    Parameters
    ----------
    rows, columns : ndarray (P,) of int
        The pairs that may be matched; none twice.
    weights : ndarray (P,) float64
        Of each, above 0.
    shape : (int, int)
        How many rows and columns there are.

    Returns
    -------
    ndarray (K,) int64
        Positions of the chosen pairs in `rows`, ascending.
    """
    if not len(rows):
        return np.empty(0, np.int64)
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    (n, m), count = shape, len(rows)
    # scipy's matching is full: each row gets a column of its own to be matched with where it stays alone.
    # It takes a 0 for no edge: every weight is 1 more, and so is the sum over the n rows, whatever is chosen.
    alone = np.arange(n)
    values = np.concatenate([weights, np.zeros(n)]) + 1
    ends = np.concatenate([rows, alone]), np.concatenate([columns, m + alone])
    graph = csr_array((values, ends), shape=(n, m + n))
    row, column = min_weight_full_bipartite_matching(graph, maximize=True)
    place = csr_array((np.arange(1, count + 1), (rows, columns)), shape=(n, m))
    inside = column < m
    return np.sort(np.asarray(place[row[inside], column[inside]], np.int64)) - 1


def match_points(predicted: Numbers, true: Numbers, radius: float) -> Indices:
    """Match points that are near each other: as many as can be, and among those matchings the nearest.

    Parameters
    ----------
    predicted, true : ndarray (N, 2), (M, 2) float64
        Row and column, in pixels.
    radius : float
        Points at this distance or nearer can be a pair, in pixels.

    Returns
    -------
    ndarray (K, 2) int64
        Indices of predicted and true points of each pair; no point in two.

    Raises
    ------
    MsdmError
        So many points are near each other that their pairs would fill the memory.

    Examples
    --------
    >>> match_points(np.array([[0.0, 0], [9, 9]]), np.array([[0.0, 3]]), radius=6).tolist()
    [[0, 0]]
    """
    if not len(predicted) or not len(true):
        return np.empty((0, 2), np.int64)
    from scipy.spatial import cKDTree

    here, there = cKDTree(predicted), cKDTree(true)
    count = int(here.count_neighbors(there, radius))
    if count > _MOST:
        raise MsdmError(
            f"{count} pairs of centres are at most {radius:g} pixels apart, more than {_MOST}; "
            f"give a shorter distance"
        )
    near = here.sparse_distance_matrix(there, radius, output_type="ndarray")
    rows, columns, distances = near["i"], near["j"], near["v"]
    # One pair more outweighs whatever nearer pairs can gain, as no pair gains more than the radius.
    bonus = (min(len(predicted), len(true)) + 1) * max(radius, 1.0)
    chosen = best_matching(rows, columns, bonus - distances, (len(predicted), len(true)))
    return np.stack([rows[chosen], columns[chosen]], axis=1).astype(np.int64)
