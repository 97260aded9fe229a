"""What a metric is: a number for two masks of a field, or for two sets of features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...core.sample import Labels

Masks = Mapping[str, Labels]
Features = NDArray[np.float32]


@dataclass(frozen=True)
class MaskMetric:
    """How well predicted masks of a field agree with the true ones.

    Attributes
    ----------
    name : str
        As tables and CSV columns call it.
    title : str
        As figures and reports call it, with its unit.
    better : {'higher', 'lower'}
    kinds : tuple of str
        The kinds of mask that it reads, such as ``("cell",)``: a field without one of them has no value.
    compute : callable
        (predicted, true) mappings kind -> (H, W) int32 -> float; NaN where it is not defined for the field.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    kinds: tuple[str, ...]
    compute: Callable[[Masks, Masks], float]


@dataclass(frozen=True)
class FeatureMetric:
    """How far two sets of features are apart.

    Attributes
    ----------
    name, title, better
        As of `MaskMetric`.
    least : int
        Rows that each set needs for the number to mean anything; below it, reports warn.
    compute : callable
        (real (N, D), synthetic (M, D)) float32, rng -> float.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    least: int
    compute: Callable[[Features, Features, np.random.Generator], float]
