"""Which pixels of a real image stay when its field is painted anew."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..core.errors import MsdmError
from ..core.recipe import SampleSection
from ..core.sample import Labels

NOTHING, UNCHANGED = "nothing", "unchanged"


def kept_pixels(
    settings: SampleSection, before: Mapping[str, Labels], after: Mapping[str, Labels]
) -> NDArray[np.bool_] | None:
    """The pixels that stay.

    Parameters
    ----------
    settings : SampleSection
        `keep` and `keep_margin`.
    before : mapping kind -> ndarray (H, W) int32
        The masks that belong to the image.
    after : mapping kind -> ndarray (H, W) int32
        Those that are painted.

    Returns
    -------
    ndarray (H, W) bool, or None
        None where nothing is kept. ``unchanged``: where every mask has the label that it had.
        ``inside:KIND`` and ``outside:KIND``: where that is so in both masks, so that neither a removed nor a
        new instance lies on pixels that stay otherwise. What lies within `keep_margin` pixels (a square
        around each) of what is painted is painted, too.

    Raises
    ------
    MsdmError
        There is no mask of that kind.
    """
    if settings.keep == NOTHING:
        return None
    if settings.keep == UNCHANGED:
        keep = np.logical_and.reduce([before[kind] == after[kind] for kind in before])
    else:
        where, _, kind = settings.keep.partition(":")
        if kind not in before or kind not in after:
            legal = ", ".join(sorted(before.keys() & after.keys())) or "none"
            raise MsdmError(f"keep {settings.keep}: the field has no {kind!r} mask; it has: {legal}")
        inside = where == "inside"
        keep = ((before[kind] > 0) == inside) & ((after[kind] > 0) == inside)
    if settings.keep_margin:
        from scipy.ndimage import minimum_filter

        side = 2 * settings.keep_margin + 1
        keep = minimum_filter(keep, size=(side, side), mode="constant", cval=1)
    return np.asarray(keep, dtype=bool)
