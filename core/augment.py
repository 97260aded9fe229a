"""Geometric augmentation of a field, jointly of its image and of every mask.

It comes before any condition is observed, so that conditions are those of the crop that the network sees:
vectors to the instances' centres, for one, cannot be turned like an image.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import MsdmError
from .sample import Sample

_Map = Callable[[NDArray[Any]], NDArray[Any]]


def augment(sample: Sample, *, crop: int, flips: bool, turns: bool, rng: np.random.Generator) -> Sample:
    """A random square crop, randomly flipped and turned.

    Parameters
    ----------
    sample : Sample
        Any size from `crop` up.
    crop : int
        Side of the crop, in pixels.
    flips : bool
        Flip left to right and top to bottom, each with probability 1/2.
    turns : bool
        Turn by 0, 90, 180 or 270 degrees, each with probability 1/4.
    rng : numpy.random.Generator
        The same numbers are drawn whatever the switches are, so that the crop does not depend on them.

    Returns
    -------
    Sample
        Image (3, crop, crop) and masks (crop, crop), contiguous. Labels keep their numbers; instances may be
        cut or absent. Where ``look`` is None the appearance is that of the crop.

    Raises
    ------
    MsdmError
        The field is smaller than the crop.
    """
    height, width = _fit(sample, crop)
    top, left = int(rng.integers(height - crop + 1)), int(rng.integers(width - crop + 1))
    mirror, upend = bool(rng.integers(2)), bool(rng.integers(2))
    quarters = int(rng.integers(4))

    def change(array: NDArray[Any]) -> NDArray[Any]:
        array = array[..., top : top + crop, left : left + crop]
        if flips and mirror:
            array = array[..., ::-1]
        if flips and upend:
            array = array[..., ::-1, :]
        return np.rot90(array, quarters, axes=(-2, -1)) if turns else array

    return _each(sample, change, change)


def centre_crop(sample: Sample, size: int) -> Sample:
    """The square of side `size` in the middle; of two middles, the upper or left one.

    Raises
    ------
    MsdmError
        The field is smaller than that.
    """
    height, width = _fit(sample, size)
    top, left = (height - size) // 2, (width - size) // 2

    def change(array: NDArray[Any]) -> NDArray[Any]:
        return array[..., top : top + size, left : left + size]

    return _each(sample, change, change)


def pad_to_multiple(sample: Sample, multiple: int) -> Sample:
    """Pad on the right and at the bottom until height and width are multiples of `multiple`.

    Parameters
    ----------
    sample : Sample
    multiple : int
        At least 1; a backbone's largest stride.

    Returns
    -------
    Sample
        Masks padded with background, the image with its edge pixels. An appearance that has the field's size
        is padded alike, so that what is read of it pixel by pixel lies where it belongs.
    """
    height, width = sample.size
    below, right = -height % multiple, -width % multiple

    def around(array: NDArray[Any]) -> list[tuple[int, int]]:
        return [(0, 0)] * (array.ndim - 2) + [(0, below), (0, right)]

    def image(array: NDArray[Any]) -> NDArray[Any]:
        return np.pad(array, around(array), "edge")

    def masks(array: NDArray[Any]) -> NDArray[Any]:
        return np.pad(array, around(array))

    padded = _each(sample, image, masks)
    if not below + right:
        return padded
    padded = replace(padded, unpadded=(height, width))
    look = sample.look
    if look is None or look.image is None or look.image.shape[1:] != (height, width):
        return padded
    labels = {kind: masks(found) for kind, found in look.masks.items()}
    return replace(padded, look=replace(look, image=image(look.image), masks=labels))


def _fit(sample: Sample, side: int) -> tuple[int, int]:
    height, width = sample.size
    if min(height, width) < side:
        raise MsdmError(
            f"field {sample.id!r} is {height} x {width}, smaller than the crop of {side} x {side}; "
            f"set a crop of at most {min(height, width)}, or leave the field out"
        )
    return height, width


def _each(sample: Sample, image: _Map, masks: _Map) -> Sample:
    return replace(
        sample,
        image=None if sample.image is None else np.ascontiguousarray(image(sample.image)),
        masks={kind: np.ascontiguousarray(masks(labels)) for kind, labels in sample.masks.items()},
        keep=None if sample.keep is None else np.ascontiguousarray(masks(sample.keep)),
    )
