"""Kernel distance of two sets of features (KID): unbiased at any size, with an interval."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError
from .base import FeatureMetric, Features

LEAST = 20
"""Rows below which the interval is not to be trusted."""
_NORMAL = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


@dataclass(frozen=True)
class KernelDistance:
    """The squared maximum mean discrepancy and how sure it is.

    Attributes
    ----------
    value : float
        Unbiased, and so below 0 at times; 0 is expected of two samples of one distribution.
    error : float
        Standard error by the jackknife.
    low, high : float
        Approximate 95 % interval, ``value -+ 1.96 error``.
    """

    value: float
    error: float

    @property
    def low(self) -> float:
        return self.value - _NORMAL * self.error

    @property
    def high(self) -> float:
        return self.value + _NORMAL * self.error


def kernel_distance(real: Features, synthetic: Features) -> KernelDistance:
    """KID: squared MMD with the kernel (x.y / D + 1)^3 (Binkowski et al., ICLR 2018).

    Parameters
    ----------
    real : ndarray (N, D)
    synthetic : ndarray (M, D)

    Returns
    -------
    KernelDistance
        ``value`` is the unbiased estimate (Gretton et al., JMLR 13:723, 2012, equation 3). The usual interval
        of subsets needs many more rows than a subset has; that of a bootstrap is biased by rows drawn twice.
        Here each row is left out once, in either set, which the sums of the kernel matrices give at no cost.

    Raises
    ------
    MsdmError
        A set has fewer than 3 rows.
    """
    n, m = len(real), len(synthetic)
    if min(n, m) < 3:
        raise MsdmError(f"a kernel distance of {n} and {m} rows; each set needs at least 3")
    x, y = np.asarray(real, np.float64), np.asarray(synthetic, np.float64)
    within_x, diagonal_x, cross_x = _sums(x, y)
    within_y, diagonal_y, cross_y = _sums(y, x)
    within_x, within_y = within_x - diagonal_x, within_y - diagonal_y
    a, b, c = within_x.sum(), within_y.sum(), cross_x.sum()
    term_y = b / (m * (m - 1))
    value = a / (n * (n - 1)) + term_y - 2 * c / (n * m)
    without_x = (a - 2 * within_x) / ((n - 1) * (n - 2)) + term_y - 2 * (c - cross_x) / ((n - 1) * m)
    term_x = a / (n * (n - 1))
    without_y = term_x + (b - 2 * within_y) / ((m - 1) * (m - 2)) - 2 * (c - cross_y) / (n * (m - 1))
    variance = sum(
        (len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum() for left in (without_x, without_y)
    )
    return KernelDistance(float(value), float(np.sqrt(variance)))


def _sums(
    x: NDArray[np.float64], y: NDArray[np.float64], rows: int = 1024
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Per row of x: the sum of its kernel with x, its kernel with itself, the sum of its kernel with y."""
    width = x.shape[1]
    within, cross = np.empty(len(x)), np.empty(len(x))
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        within[start : start + rows] = ((part @ x.T / width + 1) ** 3).sum(axis=1)
        cross[start : start + rows] = ((part @ y.T / width + 1) ** 3).sum(axis=1)
    return within, ((x * x).sum(axis=1) / width + 1) ** 3, cross


def _value(real: Features, synthetic: Features, rng: np.random.Generator) -> float:
    return kernel_distance(real, synthetic).value


KID = FeatureMetric("kid", "Kernel distance (KID)", "lower", LEAST, _value)
