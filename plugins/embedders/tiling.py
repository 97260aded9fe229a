"""Fields as the tiles that an embedder reads: brought to its pixel size, and cut to its side."""

from collections.abc import Mapping

import numpy as np

from ...core.errors import MsdmError
from ...core.sample import Image
from ..metrics.distance import PIXEL_SIZE, read_pixel_size

MOST_PIXELS = 2**28
"""Of a resampled field: 3 GiB of float32."""


def pixel_size_of(row: Mapping[str, str]) -> float | None:
    """The side of a field's pixels in micrometres, from its column ``pixel_size_um``; None where it is empty.

    Raises
    ------
    MsdmError
        It is no number above 0.
    """
    text = row.get(PIXEL_SIZE, "").strip()
    return read_pixel_size(text, f"field {row.get('id', '')!r}") if text else None


def resampled(image: Image, factor: float) -> Image:
    """An image made larger or smaller.

    Parameters
    ----------
    image : ndarray (3, H, W) float32
    factor : float
        Of both sides; above 1 makes it larger.

    Returns
    -------
    ndarray (3, H', W') float32
        Bicubic, with a filter against aliasing where it becomes smaller; in [-1, 1].

    Raises
    ------
    MsdmError
        The result would have more than 2^28 pixels.
    """
    height, width = (max(1, round(side * factor)) for side in image.shape[1:])
    if (height, width) == image.shape[1:]:
        return image
    if height * width > MOST_PIXELS:
        raise MsdmError(
            f"a field of {image.shape[1]} x {image.shape[2]} would have {height} x {width} pixels at the "
            f"embedder's pixel size, and legal are {MOST_PIXELS}; check its pixel size, or cut it into tiles"
        )
    import torch

    scaled = torch.nn.functional.interpolate(
        torch.from_numpy(np.ascontiguousarray(image))[None],
        size=(height, width),
        mode="bicubic",
        align_corners=False,
        antialias=True,
    )
    return np.asarray(scaled[0].clamp(-1, 1).numpy(), np.float32)


def tiles(image: Image, side: int | None) -> list[Image]:
    """Square tiles that cover an image.

    Parameters
    ----------
    image : ndarray (3, H, W) float32
    side : int or None
        None takes the image whole.

    Returns
    -------
    list of ndarray (3, side, side) float32
        As few as cover it, at equal distances, so that neighbours overlap where a side is no multiple of
        `side`. An image that is smaller is mirrored at its edges: it is not scaled, as that would change its
        pixel size.
    """
    if side is None:
        return [image]
    short = [max(0, side - length) for length in image.shape[1:]]
    if any(short):
        image = np.pad(image, [(0, 0), *((s // 2, s - s // 2) for s in short)], mode="symmetric")
    rows, columns = (_origins(length, side) for length in image.shape[1:])
    return [image[:, r : r + side, c : c + side] for r in rows for c in columns]


def _origins(length: int, side: int) -> list[int]:
    count = -(-length // side)
    return [round(i * (length - side) / max(1, count - 1)) for i in range(count)]
