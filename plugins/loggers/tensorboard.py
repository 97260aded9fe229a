"""Event files for TensorBoard, which the extra ``tensorboard`` installs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...core.conditioning import PluginConfig
from ...core.errors import MsdmError
from .base import Logger


class TensorBoardConfig(PluginConfig):
    """Settings of `TensorBoard`."""

    flush_seconds: int = Field(30, ge=1, description="Seconds between two writes to the disc.")


class TensorBoard(Logger):
    """Scalars and pictures as event files; the recipe as text."""

    Config: ClassVar[type[PluginConfig]] = TensorBoardConfig

    def __init__(self, config: TensorBoardConfig) -> None:
        super().__init__(config)
        self._writer: Any = None

    def start(self, folder: Path, recipe: Mapping[str, Any], step: int) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise MsdmError(
                "logger 'tensorboard' needs a package that is not installed; "
                "pip install 'msdm-kit[tensorboard]', or take it out of train.loggers"
            ) from None
        # steps after `step` are of a run that was killed: a viewer leaves them out
        self._writer = SummaryWriter(str(folder), purge_step=step + 1, flush_secs=self.config.flush_seconds)
        self._writer.add_text("recipe", f"<pre>{json.dumps(recipe, indent=2)}</pre>", step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def images(self, step: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        for name, picture in images.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
