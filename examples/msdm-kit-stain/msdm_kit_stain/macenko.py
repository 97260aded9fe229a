"""Stain vectors of an image (Macenko et al. 2009, A method for normalizing histology slides, ISBI)."""

import numpy as np
from numpy.typing import NDArray

LEAST = 8
"""Pixels of tissue below which there is nothing to estimate from."""


def optical_density(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """-log10 of the transmitted light, (N, 3), of an image (3, H, W) in [-1, 1]; 0 is white."""
    levels = (image.reshape(3, -1).T.astype(np.float64) + 1) * 127.5
    return np.maximum(-np.log10((levels + 1) / 256), 0)


def stain_vectors(
    image: NDArray[np.float32], beta: float = 0.15, alpha: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The two stains of an image, and how strong each is.

    Parameters
    ----------
    image : ndarray (3, H, W) float32
        RGB in [-1, 1].
    beta : float
        Optical density in every channel above which a pixel is tissue.
    alpha : float
        Percentile of the angles, in percent, at which a stain lies; 100 - alpha is the other's.

    Returns
    -------
    vectors : ndarray (2, 3)
        Unit vectors of optical density for R, G, B; the stain that absorbs more red comes first, as
        haematoxylin does before eosin.
    strengths : ndarray (2,)
        The 99th percentile of each stain's concentration.

    None where too few pixels are tissue.
    """
    density = optical_density(image)
    tissue = density[(density > beta).all(axis=1)]
    if len(tissue) < LEAST:
        return None
    _, axes = np.linalg.eigh(np.cov(tissue.T))
    plane = axes[:, [2, 1]]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    angles = np.arctan2(*(tissue @ plane).T[::-1])
    ends = np.percentile(angles, [alpha, 100 - alpha])
    vectors = np.stack([np.cos(ends), np.sin(ends)], axis=1) @ plane.T
    vectors = np.maximum(vectors, 0) + 1e-12
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors[np.argsort(-vectors[:, 0], kind="stable")]
    strengths = np.percentile(tissue @ np.linalg.pinv(vectors), 99, axis=0)
    return vectors, strengths
