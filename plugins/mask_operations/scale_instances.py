"""Larger and smaller instances."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ...core.conditioning import PluginConfig
from ...core.sample import Labels
from .base import MaskOperation
from .forms import resampled
from .units import Masks, Stamp, cut_out, erase, layers, mended, paste, units


class ScaleInstancesConfig(PluginConfig):
    """Settings of `ScaleInstances`."""

    factor: tuple[float, float] = Field(
        (0.8, 1.25), description="Lowest and highest factor of length; each instance draws its own."
    )
    overlap: Literal["cut", "keep"] = Field(
        "cut", description="What a grown instance does where it meets another: it is cut, or keeps its size."
    )

    @model_validator(mode="after")
    def _legal(self) -> "ScaleInstancesConfig":
        low, high = self.factor
        if not 0.1 <= low <= high <= 10:
            raise ValueError(f"factor [{low:g}, {high:g}]: give two numbers from 0.1 to 10, the lower first")
        return self


class ScaleInstances(MaskOperation):
    """Each instance is scaled about its centroid, a cell with its nuclei by one factor.

    No instance is lost, none overlap, labels stay. First those that shrink, then those that grow, each by
    label: a growing one takes background only, never a pixel of another. With `overlap: cut` it is cut where
    it meets another (or the border) and left as it was if that made it smaller than before; with `keep` it is
    left as it was as soon as it meets one. One that would vanish is left as it was.
    """

    Config = ScaleInstancesConfig

    def apply(self, masks: Masks, rng: np.random.Generator, other: Masks | None = None) -> Masks:
        work = {kind: labels.copy() for kind, labels in masks.items()}
        low, high = self.config.factor
        for kinds in layers(masks):
            found = units(masks, kinds)
            factors = np.exp(rng.uniform(np.log(low), np.log(high), len(found)))
            for grows in (False, True):
                for unit, factor in zip(found, factors, strict=True):
                    if (factor > 1) == grows:
                        self._scale(work, cut_out(masks, unit), float(factor), kinds)
        return work

    def _scale(self, work: dict[str, Labels], old: Stamp, factor: float, kinds: tuple[str, ...]) -> None:
        outer = old.masks[next(iter(old.masks))]
        centre = np.array([old.top, old.left]) + np.argwhere(outer).mean(0)
        scaled = resampled(old, np.eye(2) * factor, centre)
        erase(work, old)
        free = _free(work, scaled, kinds)
        meets = bool((scaled.footprint & ~free).any())
        new = None
        if not (meets and self.config.overlap == "keep"):
            pieces = {kind: np.where(free, piece, 0) for kind, piece in scaled.masks.items()}
            new = mended(Stamp(pieces, scaled.top, scaled.left), old)
        if new is not None and factor > 1 and _shrunk(new, old):
            new = None
        paste(work, new if new is not None else old)


def _free(work: dict[str, Labels], stamp: Stamp, kinds: tuple[str, ...]) -> NDArray[np.bool_]:
    """Which pixels of a stamp's box are background of the layer, within the field."""
    height, width = stamp.footprint.shape
    rows, columns = work[kinds[0]].shape
    y, x = stamp.top + np.arange(height), stamp.left + np.arange(width)
    inside = np.outer((y >= 0) & (y < rows), (x >= 0) & (x < columns))
    at = np.ix_(y.clip(0, rows - 1), x.clip(0, columns - 1))
    return np.asarray(inside & ~np.logical_or.reduce([work[kind][at] > 0 for kind in kinds]))


def _shrunk(new: Stamp, old: Stamp) -> bool:
    return any(np.count_nonzero(new.masks[kind]) < np.count_nonzero(old.masks[kind]) for kind in old.masks)
