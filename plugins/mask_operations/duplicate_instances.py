"""More instances, of the field's own."""

import numpy as np
from pydantic import Field

from ...core.conditioning import PluginConfig
from .base import Grown, MaskOperation
from .forms import turned
from .space import Space
from .units import Masks, Stamp, cut_out, layers, paste, renumbered, taken, touches_border, units, used_labels


class DuplicateInstancesConfig(PluginConfig):
    """Settings of `DuplicateInstances`."""

    fraction: float = Field(
        gt=0, le=10, description="Copies, as a share of the instances, rounded down; above 1 several of each."
    )


class DuplicateInstances(MaskOperation):
    """Copies of instances in free space, flipped and turned at random, with labels of their own.

    What was there is not touched, and no two instances overlap. Of N instances the whole part of
    fraction x N copies are made, fewer where they fit nowhere; each place is drawn from all where the copy
    fits. Instances at the border are not copied: it may have cut them.
    """

    Config = DuplicateInstancesConfig

    def apply(self, masks: Masks, rng: np.random.Generator, other: Masks | None = None) -> Masks:
        work = {kind: labels.copy() for kind, labels in masks.items()}
        used = used_labels(masks)
        made: dict[str, dict[int, int]] = {kind: {} for kind in masks}
        for kinds in layers(masks):
            found = units(masks, kinds)
            whole = [unit for unit in found if not touches_border(unit, masks[kinds[0]].shape)]
            copies = int(np.floor(self.config.fraction * len(found) + 1e-9)) if whole else 0
            space = Space(taken(masks, kinds))
            order = [i for _ in range(-(-copies // max(len(whole), 1))) for i in rng.permutation(len(whole))]
            for i in order[:copies]:
                stamp = turned(cut_out(masks, whole[i]), rng)
                place = space.find(stamp.footprint, rng)
                if place is not None:
                    space.set(stamp.footprint, *place)
                    fresh, origins = renumbered(Stamp(stamp.masks, *place), used)
                    paste(work, fresh)
                    for kind in fresh.masks:
                        made[kind].update(origins)
        return Grown(work, copies=made)
