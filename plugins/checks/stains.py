"""Fields whose stain is far from the rest of the set."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .finding import Finding
from .images import STAINS

FAR = 6.0
"""Robust z-score beyond which a field is far from the rest."""
LEAST = 8
"""Fields below which there is no rest to be far from."""
FLOOR = 0.01
"""Of the median absolute deviation, in optical density: below it, a set is all alike and rounding decides."""


def stain_findings(
    files: Sequence[str], stains: NDArray[np.float64], assays: Sequence[str]
) -> Iterator[Finding]:
    """Fields with a statistic whose robust z-score, 0.6745 (x - median) / MAD, is beyond `FAR`.

    The score is that of Iglewicz and Hoaglin (How to detect and handle outliers, 1993), among the fields of
    the same assay. One finding per field, of the statistic that is farthest.

    Parameters
    ----------
    files : sequence of str
        The image files.
    stains : ndarray (N, 4) float64
        `STAINS`; NaN where a field has no tissue.
    assays : sequence of str
        All alike where the set does not say.
    """
    members: dict[str, list[int]] = {}
    for i, assay in enumerate(assays):
        members.setdefault(assay, []).append(i)
    for some in members.values():
        yield from _far([files[i] for i in some], stains[some])


def _far(files: Sequence[str], stains: NDArray[np.float64]) -> Iterator[Finding]:
    there = ~np.isnan(stains).any(axis=1)
    if there.sum() < LEAST:
        return
    median = np.median(stains[there], axis=0)
    deviation = np.median(np.abs(stains[there] - median), axis=0)
    score = 0.6745 * (stains - median) / np.maximum(deviation, FLOOR)
    for i in np.flatnonzero(there).tolist():
        worst = int(np.abs(score[i]).argmax())
        if abs(score[i, worst]) > FAR:
            yield Finding(
                "stain", files[i], "",
                f"{STAINS[worst]} {stains[i, worst]:.3f}, median {median[worst]:.3f}: "
                f"z {score[i, worst]:+.1f}",
            )  # fmt: skip
