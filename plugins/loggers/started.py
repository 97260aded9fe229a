"""The loggers that a recipe names, while a run is trained."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...core.errors import MsdmError
from ...core.recipe import Recipe
from ..check import configure
from ..host import Host, get_host
from .base import Logger


class Loggers:
    """All loggers of a run. One that fails is closed and left out; the run goes on.

    Parameters
    ----------
    warn : callable (str)
        Told once of each that fails, in one line.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._loggers: dict[str, Logger] = {}
        self._warn = warn

    @property
    def names(self) -> list[str]:
        """Of those that have not failed."""
        return list(self._loggers)

    def add(self, name: str, logger: Logger) -> None:
        """One more, started."""
        self._loggers[name] = logger

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Figures of a step; a mapping among them is flattened: ``validation/t=0.125``."""
        flat: dict[str, float] = {}
        for name, value in values.items():
            if isinstance(value, Mapping):
                flat |= {f"{name}/{key}": float(v) for key, v in value.items()}
            else:
                flat[name] = float(value)
        self._each(lambda logger: logger.scalars(step, flat))

    def picture(self, step: int, name: str, path: Path) -> None:
        """A picture of a step, from its file."""
        if self._loggers:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self._each(lambda logger: logger.images(step, {name: pixels}))

    def flush(self) -> None:
        """What was logged is on the disc: a checkpoint is about to be written that knows of it."""
        self._each(lambda logger: logger.flush())

    def close(self) -> None:
        self._each(lambda logger: logger.close())
        self._loggers.clear()

    def _each(self, act: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                act(logger)
            except Exception as error:
                del self._loggers[name]
                self._warn(
                    f"logger {name!r} fails and is left out from here: {_line(error)}; the run's own metrics "
                    f"go on"
                )
                try:
                    logger.close()
                except Exception:
                    continue  # it has failed, and that was said


@contextmanager
def start_loggers(
    recipe: Recipe, folder: Path, step: int, warn: Callable[[str], None], host: Host | None = None
) -> Iterator[Loggers]:
    """The loggers that `train.loggers` names, started; closed at the end, however it comes.

    Parameters
    ----------
    recipe : Recipe
    folder : Path
        Each gets a folder in this one, by its name.
    step : int
        Optimiser steps done.
    warn : callable (str)
    host : Host or None
        None is the host of this process.

    Raises
    ------
    MsdmError
        One cannot be made or started; those that were are closed.
    """
    loggers = Loggers(warn)
    try:
        for i, entry in enumerate(recipe.train.loggers):
            cls, config = configure(recipe, "logger", f"train.loggers.{i}", entry, host or get_host())
            name = entry.type if entry.type not in loggers.names else f"{entry.type}-{i}"
            try:
                logger: Logger = cls(config)
                logger.start(folder / name, recipe.model_dump(mode="json", by_alias=True), step)
            except MsdmError:
                raise
            except Exception as error:
                raise MsdmError(
                    f"recipe {recipe.name}: train.loggers.{i}: logger {entry.type!r} does not start: "
                    f"{_line(error)}; mend its package, or take it out"
                ) from error
            loggers.add(name, logger)
        yield loggers
    finally:
        loggers.close()


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
