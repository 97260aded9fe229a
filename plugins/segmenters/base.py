"""What a segmenter is: it is trained on fields with masks of one kind, and finds such instances in images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from ...core.conditioning import PluginConfig
from ...core.sample import Image, Labels, Sample

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all."""


class Segmenter(ABC):
    """Finds instances of one kind, cells or nuclei, in images.

    Parameters
    ----------
    config : PluginConfig
        An object of the class's `Config`.
    kind : str
        The kind of mask, such as ``cell``.
    device : torch.device

    Attributes
    ----------
    trainable : bool
        Whether `fit` does anything; a segmenter that comes with its weights may not.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    trainable: ClassVar[bool] = True

    def __init__(self, config: Any, kind: str, device: torch.device) -> None:
        self.config = config
        self.kind = kind
        self.device = device

    @abstractmethod
    def fit(
        self,
        train: Sequence[Sample],
        validation: Sequence[Sample],
        *,
        seed: int,
        on_progress: Progress | None = None,
    ) -> list[float]:
        """Train from the start.

        Parameters
        ----------
        train : sequence of Sample
            With masks of the segmenter's kind; loaded as they are indexed.
        validation : sequence of Sample
            May be empty. Never trained on.
        seed : int
            The same seed gives the same weights, bit for bit on a CPU at one number of threads.
        on_progress : callable, optional
            Epochs done and in all.

        Returns
        -------
        list of float
            The training loss of each epoch.

        Raises
        ------
        MsdmError
            No field has an instance of the kind, or the segmenter cannot be trained.
        """

    @abstractmethod
    def segment(self, image: Image) -> Labels:
        """Instances in an image.

        Parameters
        ----------
        image : ndarray (3, H, W) float32
            RGB in [-1, 1].

        Returns
        -------
        ndarray (H, W) int32
            1 to n without gaps, 0 is background.
        """

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the weights, as one safetensors file, complete or not at all."""

    @abstractmethod
    def load(self, path: Path) -> None:
        """Read the weights that `save` wrote.

        Raises
        ------
        MsdmError
            The file is missing, damaged, or of another network.
        """
