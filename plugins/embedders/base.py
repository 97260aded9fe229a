"""What an embedder is: images in, one feature vector for each tile out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.conditioning import PluginConfig
from ...core.sample import Image


class Embedder(ABC):
    """Features of images, for comparing sets of them.

    It sees images and no masks: the masks of a painted field are those that it was painted from, and features
    of them would be those of the real field whatever was painted.

    Parameters
    ----------
    config : PluginConfig
        An object of the class's `Config`.
    device : torch.device

    Attributes
    ----------
    is_metric : bool
        Whether distances between its features mean anything. False for a random network, which is for tests.
    standardise : bool
        Whether its features have units of their own, so that distances are taken after each is divided by
        its deviation over the real images.
    parallel : bool
        Whether it is plain code of the CPU that can be pickled and run in several processes.
    tile : int or None
        Side of the square tiles that it reads, in pixels; None where it reads a field of any size whole.
    pixel_size : float or None
        Side of a pixel of such a tile, in micrometres; None where any will do.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    is_metric: ClassVar[bool] = True
    standardise: ClassVar[bool] = False
    parallel: ClassVar[bool] = False
    tile: int | None = None
    pixel_size: float | None = None

    def __init__(self, config: Any, device: torch.device) -> None:
        self.config = config
        self.device = device

    @classmethod  # noqa: B027  # most can always begin
    def check(cls, config: Any) -> None:
        """Find at once what would keep an embedder of a configuration from being made.

        Raises
        ------
        MsdmError
            Such as where its weights are missing.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the configuration and of the weights' bytes: equal fingerprints give equal features."""

    @abstractmethod
    def embed(self, tiles: Sequence[Image]) -> NDArray[np.float32]:
        """Features of tiles.

        Parameters
        ----------
        tiles : sequence of ndarray (3, H, W) float32
            RGB in [-1, 1]; of side `tile`, where it is not None.

        Returns
        -------
        ndarray (len(tiles), D) float32
            Finite. Each row depends on its own tile alone.
        """
