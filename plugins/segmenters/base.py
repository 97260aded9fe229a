"""What a segmenter is: it is trained on fields with masks of one kind, and finds such instances in images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from ...core.conditioning import PluginConfig
from ...core.sample import Image, Labels, Sample

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all."""


class Fields(Protocol):
    """Fields by number: a list of `Sample`, or a `FieldDataset`, which reads them as they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Sample: ...


@dataclass(frozen=True)
class Losses:
    """How a training went.

    Attributes
    ----------
    train : tuple of float
        Of each epoch.
    validation : mapping int -> float
        By epoch, counted from 1, where it was measured.
    """

    train: tuple[float, ...]
    validation: Mapping[int, float] = field(default_factory=dict)


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
    pretrained : bool
        Whether it segments without having been fitted or loaded.
    weights_sha256 : str
        Of the file that it was loaded from; empty where there is none.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    trainable: ClassVar[bool] = True
    pretrained: ClassVar[bool] = False

    def __init__(self, config: Any, kind: str, device: torch.device) -> None:
        self.config = config
        self.kind = kind
        self.device = device
        self.weights_sha256 = ""

    def check(self) -> None:  # noqa: B027  # most can always begin
        """Find at once what would keep `fit`, or `segment` of a pretrained one, from beginning.

        Raises
        ------
        MsdmError
            Such as where weights to begin with are missing.
        """

    @abstractmethod
    def fit(
        self,
        train: Fields,
        validation: Fields,
        *,
        seed: int,
        on_progress: Progress | None = None,
    ) -> Losses:
        """Train from the start.

        Parameters
        ----------
        train : Fields
            With masks of the segmenter's kind.
        validation : Fields
            May be empty. Never trained on: it changes no weight.
        seed : int
            The same seed gives the same weights, bit for bit on a CPU at one number of threads.
        on_progress : callable, optional
            Epochs done and in all, first with 0.

        Returns
        -------
        Losses

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
        """Write what `load` needs beside the settings, as one safetensors file, complete or not at all."""

    @abstractmethod
    def load(self, path: Path) -> None:
        """Read the weights that `save` wrote.

        Raises
        ------
        MsdmError
            The file is missing, damaged, or of another network.
        """
