"""Instances of another field."""

import numpy as np
from pydantic import Field

from ...core.conditioning import PluginConfig
from ...core.errors import MsdmError
from .base import Grown, MaskOperation
from .space import Space
from .units import Masks, Stamp, cut_out, layers, paste, renumbered, taken, touches_border, units, used_labels


class MixConfig(PluginConfig):
    """Settings of `Mix`."""

    fraction: float = Field(
        1.0, gt=0, le=1, description="Share of the other field's instances to paste, rounded down."
    )
    anywhere: bool = Field(
        True, description="Paste one whose own place is taken elsewhere; false leaves it out."
    )


class Mix(MaskOperation):
    """Instances of another field of the same size are pasted into free space, with labels of their own.

    What was there is not touched, and no two instances overlap; pasted ones keep form and size. Each is
    pasted at its own place where that is free, and otherwise, with `anywhere`, at a place drawn from all
    where it fits (not if the border may have cut it), or left out. The larger ones come first.
    """

    Config = MixConfig
    needs_other = True

    def apply(self, masks: Masks, rng: np.random.Generator, other: Masks | None = None) -> Masks:
        if other is None:
            raise MsdmError("mix needs the masks of another field; give it a data set of at least two fields")
        work = {kind: labels.copy() for kind, labels in masks.items()}
        used = used_labels(masks)
        pasted: dict[str, dict[int, int]] = {kind: {} for kind in masks}
        for kinds in layers(masks):
            if any(kind not in other or other[kind].shape != masks[kind].shape for kind in kinds):
                raise MsdmError(
                    f"mix needs masks of {', '.join(kinds)} of one size in both fields; choose another field"
                )
            found = units(other, kinds)
            asked = int(np.floor(self.config.fraction * len(found) + 1e-9))
            stamps = []
            for i in rng.permutation(len(found))[:asked]:
                stamp = cut_out(other, found[i])
                stamps.append((stamp, touches_border(found[i], masks[kinds[0]].shape)))
            stamps.sort(key=lambda pair: -np.count_nonzero(pair[0].footprint))
            space = Space(taken(masks, kinds))
            for stamp, cut in stamps:
                own = np.array([[stamp.top, stamp.left]])
                place: tuple[int, int] | None = (stamp.top, stamp.left)
                if not len(space.fitting(stamp.footprint, own)):
                    place = space.find(stamp.footprint, rng) if self.config.anywhere and not cut else None
                if place is not None:
                    space.set(stamp.footprint, *place)
                    fresh, origins = renumbered(Stamp(stamp.masks, *place), used)
                    paste(work, fresh)
                    for kind in fresh.masks:
                        pasted[kind].update(origins)
        return Grown(work, pasted=pasted)
