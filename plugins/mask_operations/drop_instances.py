"""Fewer instances."""

import numpy as np
from pydantic import Field

from ...core.conditioning import PluginConfig
from .base import MaskOperation
from .units import Masks, cut_out, erase, layers, units


class DropInstancesConfig(PluginConfig):
    """Settings of `DropInstances`."""

    fraction: float = Field(ge=0, lt=1, description="Share of the instances to drop, rounded down.")


class DropInstances(MaskOperation):
    """Instances become background, cells with the nuclei in them.

    Of N instances (cells; lone nuclei count too) exactly the whole part of fraction x N is dropped, drawn
    uniformly; the others keep every pixel and their labels. One instance of every kind is always left: a
    field without any cannot be painted.
    """

    Config = DropInstancesConfig

    def apply(self, masks: Masks, rng: np.random.Generator, other: Masks | None = None) -> Masks:
        work = {kind: labels.copy() for kind, labels in masks.items()}
        for kinds in layers(masks):
            found = units(masks, kinds)
            left = {kind: sum(len(unit.labels.get(kind, ())) for unit in found) for kind in kinds}
            # rounding of 0.29 * 100 must not lose one
            asked = int(np.floor(self.config.fraction * len(found) + 1e-9))
            for i in rng.permutation(len(found)):
                if asked == 0:
                    break
                members = found[i].labels
                if any(left[kind] == len(labels) for kind, labels in members.items()):
                    continue
                for kind, labels in members.items():
                    left[kind] -= len(labels)
                erase(work, cut_out(masks, found[i]))
                asked -= 1
        return work
