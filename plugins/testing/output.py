"""What loggers and commands of a package owe the program that calls them."""

import inspect
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

import numpy as np

from ...core.errors import MsdmError
from ..loggers.base import Logger
from .case import Configured, Conformance


class LoggerConformance(Configured):
    """The checks of a logger: a training of two steps, and its resumption.

    One that says at its start what it lacks, such as a package, is skipped with that reason.
    """

    kind = "logger"
    base: ClassVar[type] = Logger

    def start(self, folder: Path, step: int = 0) -> Logger:
        try:
            logger: Logger = self.load()(self.config())
            logger.start(folder, {"name": "toy", "train": {"lr": 1e-4, "clip": None}}, step)
        except MsdmError as error:
            self.check("\n" not in str(error), "its message is more than a line")
            raise SkipTest(f"logger {self.plugin!r}: {error}") from None
        return logger

    def test_takes_a_training_and_its_resumption(self, tmp_path: Path) -> None:
        picture = np.full((8, 12, 3), 128, np.uint8)
        values: dict[str, Any] = {"loss": 0.5, "lr": 1e-4, "validation/t=0.125": 0.25}
        for first in (0, 2):
            logger = self.start(tmp_path / "logs", first)
            before = (picture.copy(), dict(values))
            for step in (first + 1, first + 2):
                logger.scalars(step, values)
                logger.images(step, {"preview": picture})
            logger.scalars(first + 2, {"loss": float("nan")})
            logger.close()
            kept = np.array_equal(before[0], picture) and before[1] == values
            self.check(kept, "it changes what it is given")
        outside = [p.name for p in tmp_path.iterdir() if p.name != "logs"]
        self.check(not outside, f"it writes {outside} outside of its folder")


class CommandConformance(Conformance):
    """The checks of a command: that it can be shown, and says what it does."""

    kind = "command"

    def test_is_a_command_with_help(self) -> None:
        found = self.load()
        self.check(callable(found), "is neither a typer.Typer nor a function")
        text = getattr(getattr(found, "info", None), "help", None) or inspect.getdoc(found)
        self.check(isinstance(text, str) and text.strip(), "has no help; give its function a docstring")
