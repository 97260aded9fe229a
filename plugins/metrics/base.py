"""What a metric is: a figure of two masks of a field, or of two sets of features."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .comparison import Comparison

Features = NDArray[np.float32]


class Ratio(NamedTuple):
    """A figure of one field as the ratio of two sums, so that fields can be pooled.

    Attributes
    ----------
    top, bottom : float
        The figure is ``top / bottom``; where `bottom` is 0, the field has no value. A figure that is no ratio
        is ``Ratio(figure, 1)``: pooling is then the mean of fields.

    Examples
    --------
    >>> Ratio(3, 4).value
    0.75
    >>> Ratio(0, 0).value
    nan
    >>> Ratio.pooled([Ratio(1, 1), Ratio(1, 3), Ratio(0, 0)])
    0.5
    """

    top: float
    bottom: float

    @property
    def value(self) -> float:
        """The figure; NaN where the field has none."""
        return self.top / self.bottom if self.bottom else math.nan

    @staticmethod
    def pooled(ratios: "Iterable[Ratio]") -> float:
        """The figure of all fields as if they were one: sum over sum. NaN where no field has a value."""
        known = [ratio for ratio in ratios if ratio.bottom]
        return Ratio(math.fsum(r.top for r in known), math.fsum(r.bottom for r in known)).value


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
        `Comparison` of a field's predicted and true masks -> `Ratio`, whose bottom is 0 where the figure is
        not defined for the field.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    kinds: tuple[str, ...]
    compute: "Callable[[Comparison], Ratio]"


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
    most : int or None
        Rows of a set that it takes in reasonable time: of more, so many are drawn. None takes any number.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    least: int
    compute: Callable[[Features, Features, np.random.Generator], float]
    most: int | None = None
