"""What a field's image is compared with others by: its pixels, its coarse look, its stain."""

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from ...core.images import RawImage

SIDE, KEPT = 32, 16
"""Side of the reduced image, and of the block of its lowest frequencies."""
BITS = KEPT * KEPT
FLAT = 2.0
"""Standard deviation in grey levels below which a reduced image has no look to compare."""
TISSUE = 0.15
"""Mean optical density above which a pixel is tissue (Macenko et al., ISBI 2009)."""
STAINS = ("optical density", "haematoxylin", "eosin", "DAB")


@dataclass(frozen=True)
class Fingerprint:
    """Of one image.

    Attributes
    ----------
    digest : bytes
        Of size and pixels; equal for equal images.
    look : ndarray (32,) uint8, or None
        Perceptual hash of 256 bits; None of a flat image.
    stain : ndarray (4,) float64
        Means over the tissue of `STAINS`; NaN where there is none.
    """

    digest: bytes
    look: NDArray[np.uint8] | None
    stain: NDArray[np.float64]


def fingerprint(image: RawImage) -> Fingerprint:
    """Fingerprint of an image (H, W, 3) uint8."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return Fingerprint(digest.digest(), look(image), stain(image))


def look(image: RawImage) -> NDArray[np.uint8] | None:
    """Perceptual hash: the signs of the lowest frequencies of the reduced grey image.

    The image is reduced to 32 x 32, and of its discrete cosine transform the 16 x 16 lowest
    frequencies are kept, as pHash does (Zauner, 2010). Brightness and contrast do not change signs, a flip
    changes those of odd frequencies, a turn swaps rows and columns: see `orientations`.
    """
    from scipy.fft import dctn

    # a triangle filter: Pillow's box filter is not symmetric where a side is no multiple of 32
    small = Pillow.fromarray(image).convert("L").resize((SIDE, SIDE), Pillow.Resampling.BILINEAR)
    grey = np.asarray(small, np.float64)
    if grey.std() < FLAT:
        return None
    signs = dctn(grey, norm="ortho")[:KEPT, :KEPT] > 0
    signs[0, 0] = False  # of the mean
    return np.packbits(signs)


def orientations(hashes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Hashes (N, 32) of the 8 flips and turns of each image, (8, N, 32); the first as they are."""
    signs = np.unpackbits(hashes, axis=-1).reshape(-1, KEPT, KEPT)
    odd = (np.arange(KEPT) % 2).astype(np.uint8)
    there = np.ones((KEPT, KEPT), np.uint8)
    there[0, 0] = 0
    found = []
    for turned in (signs, signs.swapaxes(1, 2)):
        for rows in (0, 1):
            for columns in (0, 1):
                change = (rows * odd[:, None] + columns * odd[None, :]) % 2 * there
                found.append(np.packbits((turned ^ change).reshape(-1, BITS), axis=-1))
    return np.stack(found)


@cache
def _densities() -> NDArray[np.float32]:
    # log10, with 1 added so that black has a density; scikit-image's rgb2hed is linear in it
    return (-np.log10((np.arange(256) + 1) / 256)).astype(np.float32)


def stain(image: RawImage) -> NDArray[np.float64]:
    """Means over the tissue of the optical density and of haematoxylin, eosin and DAB, (4,) float64.

    The stains are those of colour deconvolution (Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23:291,
    2001, with their vectors), in optical density to the base of 10 and not clipped at 0. Tissue are the
    pixels whose mean density exceeds `TISSUE`; NaN where they are less than 1 % of the image.
    """
    from skimage.color import hed_from_rgb

    density = _densities()[image].reshape(-1, 3)
    tissue = density[:, 0] + density[:, 1] + density[:, 2] > 3 * TISSUE
    if tissue.sum() * 100 < len(tissue):
        return np.full(len(STAINS), np.nan)
    mean: NDArray[Any] = density[tissue].mean(axis=0, dtype=np.float64)
    return np.array([mean.mean(), *(mean @ hed_from_rgb)])
