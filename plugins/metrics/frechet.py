"""Frechet distance of two sets of features (FID)."""

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError
from .base import FeatureMetric, Features

LEAST = 2000
"""Rows below which the distance says more about its bias than about the images."""


def frechet_distance(real: Features, synthetic: Features, rng: np.random.Generator | None = None) -> float:
    """Squared Frechet distance of the normal distributions with the sets' means and covariances.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), Heusel et al., NeurIPS 2017, equation 6, with covariances
    over n - 1 as its reference implementation has them. With A = X1 / sqrt(n1 - 1) of the centred rows, C1 =
    A'A and C2 = B'B, and the trace of the root is the sum of the singular values of A B': exact at fewer rows
    than features, where the square root of C1 C2 is not, and no larger than the smaller of the two.

    Parameters
    ----------
    real : ndarray (N, D)
    synthetic : ndarray (M, D)
        Not necessarily of an Inception network: distances of different embedders are not comparable.

    Returns
    -------
    float
        Not negative. Biased upwards at finite size, by an amount that depends on the distributions (Chong and
        Forsyth, CVPR 2020): sets of different sizes are not comparable either.

    Raises
    ------
    MsdmError
        A set has fewer than 2 rows.
    """
    if min(len(real), len(synthetic)) < 2:
        raise MsdmError(
            f"a Frechet distance of {len(real)} and {len(synthetic)} rows; each set needs at least 2"
        )
    mean_a, a = _centred(real)
    mean_b, b = _centred(synthetic)
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    shift = mean_a - mean_b
    return float(max(0.0, shift @ shift + (a * a).sum() + (b * b).sum() - 2 * root))


def _centred(features: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean, and a factor of at most D rows whose product with itself is the covariance."""
    x = np.asarray(features, np.float64)
    mean = x.mean(axis=0)
    factor = (x - mean) / np.sqrt(len(x) - 1)
    # the orthogonal part of a QR decomposition changes no singular value of a product
    if len(x) > x.shape[1]:
        factor = np.asarray(np.linalg.qr(factor, mode="r"))
    return mean, factor


FID = FeatureMetric("fid", "Fréchet distance (FID)", "lower", LEAST, frechet_distance)
