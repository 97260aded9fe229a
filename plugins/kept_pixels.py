"""Which pixels of a real image stay when its field is painted anew."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.augment import pad_to_multiple
from ..core.errors import MsdmError
from ..core.known import Known
from ..core.recipe import SampleSection
from ..core.sample import Labels, Sample

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


def known_images(fields: Sequence[Sample], settings: SampleSection, multiple: int) -> Known | None:
    """The images of fields, and which of their pixels stay.

    Parameters
    ----------
    fields : sequence of Sample
        Of one size.
    settings : SampleSection
    multiple : int
        The images are padded to multiples of it.

    Returns
    -------
    Known or None
        On the CPU, one row per field; None where the settings need no image.

    Raises
    ------
    MsdmError
        A field has no image, or nothing says what to keep.
    """
    if not settings.needs_image:
        return None
    images, keeps = [], []
    for field in fields:
        if field.image is None:
            raise MsdmError(
                f"field {field.id!r} has no image to start from or to keep pixels of; paint it with "
                f"start noise and keep nothing"
            )
        keep = field.keep
        if keep is None and settings.keep == UNCHANGED:
            raise MsdmError(
                f"keep unchanged: nothing says what was changed in field {field.id!r}; set its `keep`, "
                f"or name a kind, such as outside:{next(iter(field.masks), 'nucleus')}"
            )
        if keep is None:
            keep = kept_pixels(settings, field.masks, field.masks)
        padded = pad_to_multiple(replace(field, keep=keep), multiple)
        images.append(torch.from_numpy(padded.image))
        if settings.keep != NOTHING:
            keeps.append(torch.from_numpy(padded.keep)[None])
    return Known(torch.stack(images), torch.stack(keeps) if keeps else None)
