"""Images and label masks on disc: PNG, or TIFF of the same types."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from .errors import MsdmError
from .files import atomic_write
from .png import check_png
from .sample import Image
from .tiff import check_tiff

SUFFIXES = (".png", ".tif", ".tiff")
RawImage = NDArray[np.uint8]
RawLabels = NDArray[np.uint8] | NDArray[np.uint16]

_MODES = {
    "1": "1-bit",
    "L": "8-bit greyscale",
    "LA": "8-bit greyscale with alpha",
    "P": "8-bit palette",
    "PA": "8-bit palette with alpha",
    "RGB": "8-bit RGB",
    "RGBA": "8-bit RGBA",
    "CMYK": "8-bit CMYK",
    "I;16": "16-bit greyscale",
    "I;16B": "16-bit greyscale",
    "I": "32-bit integer",
    "F": "32-bit float",
}
_LABEL_ADVICE = "save the labels as one channel of uint16 (0 is background, then 1, 2, ...)"


def read_image(path: str | os.PathLike[str]) -> RawImage:
    """Read an RGB image.

    Parameters
    ----------
    path : path
        PNG or TIFF, RGB, 8 bits per channel.

    Returns
    -------
    ndarray (H, W, 3) uint8

    Raises
    ------
    MsdmError
        The file cannot be read, or is of another type.
    """
    array, mode, bits = decode(Path(path))
    if mode == "RGB" and bits == 8:
        return array.astype(np.uint8, copy=False)
    if bits > 8:
        advice = "rescale it to 8 bits and save it as RGB"
    else:
        advice = "convert it, such as with Pillow: Image.open(p).convert('RGB').save(p)"
    raise MsdmError(f"{path} is {describe(mode, bits)}, and images are 8-bit RGB; {advice}")


def read_labels(path: str | os.PathLike[str]) -> RawLabels:
    """Read a label mask.

    Parameters
    ----------
    path : path
        PNG or TIFF, one channel of uint8 or uint16: 0 is background, every instance has its own number.

    Returns
    -------
    ndarray (H, W) uint8 or uint16

    Raises
    ------
    MsdmError
        The file cannot be read, or is of another type.
    """
    array, mode, bits = decode(Path(path))
    if mode == "L" and bits == 8:
        return array.astype(np.uint8, copy=False)
    if mode in ("I;16", "I;16B") and bits == 16:
        return array.astype(np.uint16, copy=False)
    raise MsdmError(
        f"{path} is {describe(mode, bits)}, and label masks are uint16 or uint8 greyscale; {_LABEL_ADVICE}"
    )


def to_float(raw: RawImage) -> Image:
    """(H, W, 3) uint8 as (3, H, W) float32 in [-1, 1]: x / 127.5 - 1."""
    return np.ascontiguousarray(raw.transpose(2, 0, 1)).astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(image: NDArray[np.floating[Any]]) -> RawImage:
    """(3, H, W) in [-1, 1] as (H, W, 3) uint8: (x + 1) 127.5, half to even, clipped to [0, 255].

    Raises
    ------
    MsdmError
        The shape is another one, or a value is not finite.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise MsdmError(
            f"an image has shape (3, H, W), and this one has {image.shape}; give RGB, channels first"
        )
    if not np.isfinite(image).all():
        raise MsdmError("the image has values that are not finite; its values must be in [-1, 1]")
    # float64: (x + 1) 127.5 in float32 rounds before it is rounded.
    levels = np.rint((image.astype(np.float64) + 1) * 127.5).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


def save_image(path: str | os.PathLike[str], image: NDArray[np.floating[Any]]) -> None:
    """Write an image as RGB PNG, under a temporary name that is renamed.

    Parameters
    ----------
    path : path
    image : ndarray (3, H, W) float
        In [-1, 1]; what lies outside is clipped.

    Raises
    ------
    MsdmError
        The shape is another one, a value is not finite, or the file cannot be written.
    """
    picture = Pillow.fromarray(to_uint8(image))
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")


def save_labels(path: str | os.PathLike[str], labels: NDArray[np.integer[Any]]) -> None:
    """Write a label mask as uint16 PNG, under a temporary name that is renamed.

    Parameters
    ----------
    path : path
    labels : ndarray (H, W) integer
        In [0, 65535].

    Raises
    ------
    MsdmError
        The shape or type is another one, a label is out of range, or the file cannot be written.
    """
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise MsdmError(
            f"cannot write {path}: labels are integers of shape (H, W), and these are {labels.dtype} of "
            f"shape {labels.shape}"
        )
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high > 65535:
        raise MsdmError(
            f"cannot write {path}: label {low if low < 0 else high} does not fit uint16, 0 to 65535; "
            f"renumber the instances"
        )
    picture = Pillow.fromarray(labels.astype(np.uint16))
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")


def describe(mode: str, bits: int) -> str:
    """A Pillow mode and bits per channel in words, such as ``16-bit greyscale (Pillow mode I;16)``."""
    words = _MODES.get(mode, "of another type")
    if mode in ("L", "RGB", "RGBA", "LA") and bits != 8:
        words = words.replace("8-bit", f"{bits}-bit")
    return f"{words} (Pillow mode {mode})"


def _bits(picture: Pillow.Image, path: Path) -> int:
    """Bits per channel in the file, which `mode` does not always tell: Pillow reads 16-bit RGB as 8-bit."""
    if picture.format == "PNG":
        with open(path, "rb") as handle:
            return handle.read(25)[24]  # bit depth in IHDR (PNG specification, 11.2.1)
    depths = picture.tag_v2.get(258, (1,))  # type: ignore[attr-defined]  # TIFF 6.0, BitsPerSample
    return int(max(depths)) if isinstance(depths, tuple) else int(depths)


def decode(path: Path) -> tuple[NDArray[Any], str, int]:
    """A PNG or TIFF file of any type: its pixels, Pillow mode and bits per channel.

    Raises
    ------
    MsdmError
        The file is missing or damaged, holds several pictures, or has too many pixels.
    """
    try:
        check_png(path)
        check_tiff(path)
        with Pillow.open(path, formats=("PNG", "TIFF")) as picture:
            # Pillow itself only warns up to twice the limit, and filters of warnings are not thread-safe.
            limit, pixels = Pillow.MAX_IMAGE_PIXELS, picture.width * picture.height
            if limit is not None and pixels > limit:
                raise Pillow.DecompressionBombError(f"{pixels} pixels")
            frames = getattr(picture, "n_frames", 1)
            if frames > 1:
                raise MsdmError(f"{path} holds {frames} pictures, and legal is one; save each as a file")
            bits = _bits(picture, path)
            return np.asarray(picture), picture.mode, bits
    except FileNotFoundError:
        raise MsdmError(f"{path} is missing; put the file there") from None
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning):
        raise MsdmError(
            f"{path} has more than {Pillow.MAX_IMAGE_PIXELS} pixels, the limit against decompression bombs; "
            f"cut it into tiles"
        ) from None
    except UnidentifiedImageError:
        raise MsdmError(f"{path} is not a PNG or TIFF file that can be read; save it again as PNG") from None
    except MsdmError:
        raise
    # What Pillow raises on a damaged file depends on where the damage lies.
    except Exception as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise MsdmError(f"{path} is damaged or cannot be read ({cause}); copy or save it again") from None
