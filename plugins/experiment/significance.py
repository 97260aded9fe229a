"""Whether two arms differ: the Wilcoxon signed-rank test over fields, with Holm's correction.

The paired units are fields: of each field, the mean over the seeds and annotators of either arm. Seeds are no
units of their own: repeated trainings of one network on one set of fields do not make the fields more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Comparison:
    """Two arms on one test set by one metric.

    Attributes
    ----------
    test, metric : str
    first, second : str
        Arms; `first` is the one that is compared with.
    fields : int
        Pairs of fields in which both have a value.
    difference : float
        Mean over these of second minus first.
    p : float
        Two-sided; 1 where no field differs, NaN where there is no pair.
    corrected : float
        By Holm's method, over the family that it was tested in; NaN before, and where `p` is.
    """

    test: str
    metric: str
    first: str
    second: str
    fields: int
    difference: float
    p: float
    corrected: float = math.nan


def compare(
    test: str, metric: str, first: str, second: str, values: Mapping[str, Mapping[str, float]]
) -> Comparison:
    """Test whether two arms differ.

    Parameters
    ----------
    test, metric, first, second : str
    values : mapping arm -> mapping field -> float
        NaN, or no entry, where a field has no value.
    """
    fields = [id for id in values[first] if id in values[second]]
    pairs = np.array([(values[first][id], values[second][id]) for id in fields], np.float64).reshape(-1, 2)
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    differences = pairs[:, 1] - pairs[:, 0]
    mean = float(differences.mean()) if differences.size else math.nan
    return Comparison(test, metric, first, second, len(pairs), mean, signed_rank(differences))


def signed_rank(differences: ArrayLike) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test.

    Differences of 0 are left out, as Wilcoxon did (Biometrics Bulletin 1:80, 1945). Up to 50 differences
    without ties the distribution is exact; otherwise it is the normal one, corrected for ties. They are
    rounded to 12 decimals before: means that are equal may differ by their rounding.

    Parameters
    ----------
    differences : array (N,)

    Returns
    -------
    float
        1 where all are 0, NaN where there are none.

    Examples
    --------
    >>> signed_rank([1.0, 2.0, 3.0, 4.0, 5.0])  # all signs alike: 2 / 2**5
    0.0625
    """
    found = np.round(np.asarray(differences, np.float64), 12)
    if not found.size:
        return math.nan
    found = found[found != 0]
    if not found.size:
        return 1.0
    from scipy.stats import wilcoxon

    ties = len(np.unique(np.abs(found))) < len(found)
    method = "exact" if len(found) <= 50 and not ties else "approx"
    return float(wilcoxon(found, method=method).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6:65, 1979).

    Parameters
    ----------
    p : sequence of float
        NaN is no test: it stays NaN and does not count.

    Returns
    -------
    list of float
        In the order of `p`: below a level exactly where Holm's procedure rejects at that level.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted((i for i, value in enumerate(p) if not math.isnan(value)), key=lambda i: p[i])
    corrected = [math.nan] * len(p)
    most = 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1.0, (len(order) - rank) * p[i]))
        corrected[i] = most
    return corrected


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """A family of comparisons with its corrected p-values."""
    corrected = holm([one.p for one in comparisons])
    return [replace(one, corrected=value) for one, value in zip(comparisons, corrected, strict=True)]
