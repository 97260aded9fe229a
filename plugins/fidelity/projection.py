"""Features in two dimensions, to look at: UMAP where it is installed, and principal components otherwise."""

import importlib.util
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError, did_you_mean
from ..metrics.base import Features

Method = Literal["auto", "umap", "pca"]
METHODS: tuple[Method, ...] = ("auto", "umap", "pca")

LEAST = 12
"""Fields below which UMAP has no neighbourhoods to keep."""
NEIGHBOURS = 15


@dataclass(frozen=True)
class Projection:
    """Positions in the plane.

    Attributes
    ----------
    real, synthetic : ndarray (N, 2), (M, 2) float64
    method : {'UMAP', 'PCA'}
    note : str
        How to read it.
    """

    real: NDArray[np.float64]
    synthetic: NDArray[np.float64]
    method: str
    note: str


def check_method(name: str) -> Method:
    """A method by name, before any work is done for it.

    Raises
    ------
    MsdmError
        There is none of that name, or UMAP is asked for and is not installed.
    """
    if name == "umap" and not _has_umap():
        raise MsdmError("UMAP needs umap-learn; run: pip install 'msdm-kit[umap]', or take --projection pca")
    for legal in METHODS:
        if name == legal:
            return legal
    raise MsdmError(f"no projection {name!r}; {did_you_mean(name, METHODS)}")


def project(real: Features, synthetic: Features, method: Method = "auto", seed: int = 0) -> Projection:
    """Features of both sets in one plane.

    Parameters
    ----------
    real, synthetic : ndarray (N, D), (M, D)
    method : {'auto', 'umap', 'pca'}
        ``auto`` takes UMAP (McInnes et al., 2018) where umap-learn is installed and there are enough fields.
        Principal components are those of the real fields; synthetic ones are put onto them.
    seed : int
        Of UMAP.

    Raises
    ------
    MsdmError
        UMAP is asked for and is not installed, or there is no such method.
    """
    method = check_method(method)
    there = _has_umap()
    enough = len(real) + len(synthetic) >= LEAST
    if method == "pca" or not there or not enough:
        why = "" if method == "pca" else (
            f" UMAP needs {LEAST} fields." if there else " For UMAP: pip install 'msdm-kit[umap]'."
        )  # fmt: skip
        return _pca(real, synthetic, why)
    from umap import UMAP

    together = np.concatenate([real, synthetic])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one job at a time, which a seed asks for
        found = UMAP(n_neighbors=min(NEIGHBOURS, len(together) - 1), random_state=seed, n_jobs=1)
        points = np.asarray(found.fit_transform(together), np.float64)
    note = "UMAP keeps neighbourhoods; sizes of clusters and distances between them mean little."
    return Projection(points[: len(real)], points[len(real) :], "UMAP", note)


def _has_umap() -> bool:
    return importlib.util.find_spec("umap") is not None


def _pca(real: Features, synthetic: Features, why: str) -> Projection:
    mean = real.mean(axis=0, dtype=np.float64)
    _, values, axes = np.linalg.svd(real - mean, full_matrices=False)
    axes = np.concatenate([axes[:2], np.zeros((2, axes.shape[1]))])[:2]
    # the sign of a component is arbitrary, and libraries differ in it
    axes *= np.where(axes[np.arange(2), np.abs(axes).argmax(axis=1)] < 0, -1.0, 1.0)[:, None]
    total = float((values**2).sum())
    share = float((values[:2] ** 2).sum()) / total if total else 0.0
    note = f"The two principal components of the real fields, {share:.0%} of their variance.{why}"
    return Projection((real - mean) @ axes.T, (synthetic - mean) @ axes.T, "PCA", note)
