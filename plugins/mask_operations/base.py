"""What a mask operation is: the masks of a field in, masks of the same size out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ...core.conditioning import PluginConfig
from ...core.sample import Labels
from .units import Masks

Origins = Mapping[str, Mapping[int, int]]
"""By mask kind: a new label, and the one that it was made of."""


class Grown(dict[str, Labels]):
    """Masks in which there are new instances.

    Parameters
    ----------
    masks : mapping kind -> ndarray (H, W) int32
    copies : Origins
        New instances that are made of ones of this field.
    pasted : Origins
        New instances that are made of ones of the other field.
    """

    def __init__(self, masks: Masks, *, copies: Origins | None = None, pasted: Origins | None = None) -> None:
        super().__init__(masks)
        self.copies: Origins = copies or {}
        self.pasted: Origins = pasted or {}


class MaskOperation(ABC):
    """An operation on the masks of a field.

    Parameters
    ----------
    config : PluginConfig
        An object of the class's `Config`.

    Attributes
    ----------
    needs_other : bool
        Whether `apply` reads the masks of another field.

    Notes
    -----
    A pure function of its arguments: it draws from `rng` alone, changes no array that it is given, and gives
    back every kind of mask, (H, W) int32 at the size that came. A cell and the nuclei in it are treated as
    one (`msdm_kit.plugins.mask_operations.units`): a nucleus that lay in its cell lies in it afterwards, and
    where both had one label, both have one label. An instance keeps its label; a new one has a label that
    none had, and `Grown` says what it was made of, so that it has the class of that.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    needs_other: ClassVar[bool] = False

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def apply(self, masks: Masks, rng: np.random.Generator, other: Masks | None = None) -> Masks:
        """The masks after the operation.

        Parameters
        ----------
        masks : mapping kind -> ndarray (H, W) int32
            Instance labels, 0 is background. There may be none.
        rng : numpy.random.Generator
        other : mapping kind -> ndarray (H, W) int32, or None
            The masks of another field of the same size, where `needs_other`.

        Returns
        -------
        mapping kind -> ndarray (H, W) int32
            A `Grown`, where there are new instances.
        """
