"""Smooth random deformation of a field."""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...core.conditioning import PluginConfig
from ...core.sample import Labels
from .base import MaskOperation
from .units import Masks, in_one_piece, largest_piece, layers

_HALVINGS = 6


class ElasticConfig(PluginConfig):
    """Settings of `Elastic`."""

    amplitude: float = Field(4.0, ge=0, le=256, description="Largest shift of a pixel, in pixels.")
    smoothness: float = Field(
        16.0, gt=0, le=1024, description="Standard deviation of the Gaussian that smooths it, in pixels."
    )


class Elastic(MaskOperation):
    """A smooth random displacement, the same for every kind, looked up at the nearest pixel.

    No instance is lost, none is torn, labels stay. The displacement is 0 at the border. Of an instance that
    is torn its largest piece is kept; where one would vanish, the amplitude of the whole field is halved, up
    to six times, and after that the field is left as it is.
    """

    Config = ElasticConfig

    def apply(self, masks: Masks, rng: np.random.Generator, other: Masks | None = None) -> Masks:
        size = next((labels.shape for labels in masks.values()), (0, 0))
        shift = _field(size, self.config.smoothness, rng)
        for k in range(_HALVINGS):
            changed = _warped(masks, shift * (self.config.amplitude / 2**k))
            if changed is not None:
                return changed
        return {kind: labels.copy() for kind, labels in masks.items()}


def _field(size: tuple[int, ...], smoothness: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A displacement (2, H, W) whose longest vector has length 1, 0 at the border."""
    from scipy.ndimage import gaussian_filter

    noise = rng.standard_normal((2, *size))
    if not noise.size:
        return noise
    smooth = np.stack([gaussian_filter(part, smoothness, mode="reflect") for part in noise])
    for axis, n in enumerate(size):
        edge = np.minimum(np.arange(n), np.arange(n)[::-1]) / smoothness
        shape = [1, 1, 1]
        shape[axis + 1] = n
        smooth *= np.minimum(edge, 1).reshape(shape)
    longest = np.hypot(*smooth).max()
    return np.asarray(smooth / longest) if longest > 0 else smooth


def _warped(masks: Masks, shift: NDArray[np.float64]) -> dict[str, Labels] | None:
    """The masks at the shifted places; None where an instance is gone."""
    height, width = shift.shape[1:]
    rows, columns = np.indices((height, width))
    y = np.rint(rows + shift[0]).astype(int).clip(0, max(height - 1, 0))
    x = np.rint(columns + shift[1]).astype(int).clip(0, max(width - 1, 0))
    changed: dict[str, Labels] = {}
    for kinds in layers(masks):
        outer = masks[kinds[0]]
        for kind in kinds:
            old, new = masks[kind], masks[kind][y, x]
            nested = kind != kinds[0]
            if nested:
                # what lay in its cell, and what lay outside all cells, does so still
                new = np.where((outer[y, x] > 0) & (changed[kinds[0]] == 0), 0, new)
            if not _mend(new, old):
                return None
            changed[kind] = new
    return changed


def _mend(new: Labels, old: Labels) -> bool:
    """Keep the largest piece of every instance that was whole, in place; whether all are still there."""
    from scipy.ndimage import find_objects

    after = find_objects(new)
    for label, box in enumerate(find_objects(old), 1):
        if box is None:
            continue
        found = after[label - 1] if label <= len(after) else None
        if found is None:
            return False
        mask = new[found] == label
        if in_one_piece(mask) or not in_one_piece(old[box] == label):
            continue
        new[found][mask & ~largest_piece(mask)] = 0
    return True
