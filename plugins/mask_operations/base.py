"""What a mask operation is: the masks of a field in, masks of the same size out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ...core.conditioning import PluginConfig
from ...core.sample import Labels

Masks = Mapping[str, Labels]


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
    where both had one label, both have one label.
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
        """
