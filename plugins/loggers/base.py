"""The interface of a logger."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...core.conditioning import PluginConfig


class Logger(ABC):
    """One place where the figures and pictures of a training go.

    A plugin sets `Config`. A logger that fails when it is made or started ends the command before anything
    is trained; one that fails later is closed and left out, and the training goes on.

    Parameters
    ----------
    config : PluginConfig
        An object of `Config`.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def start(self, folder: Path, recipe: Mapping[str, Any], step: int) -> None:
        """Training begins, or goes on.

        Parameters
        ----------
        folder : Path
            For files of this logger alone, inside the run's; it may not be there yet.
        recipe : mapping
            JSON only, with every default.
        step : int
            Optimiser steps done: what was logged of later ones will come again.

        Raises
        ------
        MsdmError
            What it needs is not installed or cannot be reached.
        """

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Figures after optimiser step `step`: loss, gradient_norm, lr, images, validation/t=0.125 ..."""

    @abstractmethod
    def images(self, step: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """Pictures (H, W, 3) by name after optimiser step `step`: ``preview``, a contact sheet."""

    def flush(self) -> None:  # noqa: B027 (a logger that keeps nothing back has nothing to do)
        """A checkpoint is about to be written: what is still kept back goes where it belongs.

        A run that is killed goes on from a checkpoint, and what was logged before it does not come again.
        """

    @abstractmethod
    def close(self) -> None:
        """Training has ended, was interrupted or has failed: write what is left."""
