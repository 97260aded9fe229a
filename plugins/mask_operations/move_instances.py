"""Instances at other places."""

import numpy as np
from pydantic import Field

from ...core.conditioning import PluginConfig
from .base import MaskOperation
from .space import Space
from .units import Masks, Stamp, cut_out, erase, layers, paste, taken, touches_border, units


class MoveInstancesConfig(PluginConfig):
    """Settings of `MoveInstances`."""

    distance: int = Field(10, ge=1, le=512, description="Longest shift, in pixels.")
    fraction: float = Field(1.0, ge=0, le=1, description="Share of the instances to move, rounded down.")


class MoveInstances(MaskOperation):
    """Instances are shifted, one after the other in a random order.

    Every instance keeps its form, its pixels and its label, and none overlap. The shift is drawn from all up
    to `distance` (in a straight line) that end on free pixels within the field; one without any stays.
    Instances at the border stay: it may have cut them.
    """

    Config = MoveInstancesConfig

    def apply(self, masks: Masks, rng: np.random.Generator, other: Masks | None = None) -> Masks:
        work = {kind: labels.copy() for kind, labels in masks.items()}
        reach = self.config.distance
        shifts = np.indices((2 * reach + 1, 2 * reach + 1)).reshape(2, -1).T - reach
        squared = (shifts**2).sum(1)
        shifts = shifts[(squared > 0) & (squared <= reach**2)]
        for kinds in layers(masks):
            found = units(masks, kinds)
            space = Space(taken(masks, kinds))
            asked = int(np.floor(self.config.fraction * len(found) + 1e-9))
            for i in rng.permutation(len(found))[:asked]:
                if touches_border(found[i], masks[kinds[0]].shape):
                    continue
                stamp = cut_out(masks, found[i])
                footprint = stamp.footprint
                space.set(footprint, stamp.top, stamp.left, False)
                places = space.fitting(footprint, shifts + np.array([stamp.top, stamp.left]))
                top, left = stamp.top, stamp.left
                if len(places):
                    top, left = (int(k) for k in places[int(rng.integers(len(places)))])
                    erase(work, stamp)
                    paste(work, Stamp(stamp.masks, top, left))
                space.set(footprint, top, left)
        return work
