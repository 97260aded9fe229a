"""Pictures, label maps and JSON of other tools; sizes are checked before memory is asked for."""

import json
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from ...core.errors import MsdmError
from ...core.png import check_png
from ...core.tiff import check_tiff
from .base import LabelMap, Picture

MAX_JSON = 2**31
"""Bytes of a JSON file; in memory it takes several times that."""
_FORMATS = ("PNG", "TIFF", "JPEG", "BMP")
_LABEL_MODES = ("1", "L", "P", "I;16", "I;16B", "I;16L", "I", "F")


def read_picture(path: Path) -> Picture:
    """A picture as RGB.

    Grey and palette pictures become RGB; an alpha channel is dropped.

    Parameters
    ----------
    path : Path
        PNG, TIFF, JPEG or BMP of 8 bits per channel.

    Returns
    -------
    ndarray (H, W, 3) uint8

    Raises
    ------
    MsdmError
        It cannot be read, has more than 8 bits per channel, several pages, or too many pixels.
    """
    with _opened(path) as picture:
        wide = picture.mode.startswith(("I", "F")) or _bits(picture, path) > 8
        if wide:
            raise MsdmError(
                f"{path} has more than 8 bits per channel (Pillow mode {picture.mode}), and images are "
                "8-bit; "
                f"rescale it to 8 bits first"
            )
        return np.asarray(picture.convert("RGB"))


def read_label_map(path: Path) -> LabelMap:
    """A label map: one channel of 1 to 32 bits, whole numbers from 0.

    Raises
    ------
    MsdmError
        It cannot be read, or is something else.
    """
    with _opened(path) as picture:
        if picture.mode not in _LABEL_MODES:
            raise MsdmError(
                f"{path} is no label map (Pillow mode {picture.mode}); a label map has one channel with a "
                "number "
                f"for every instance"
            )
        return whole(np.asarray(picture), str(path))


def whole(values: NDArray[Any], where: str) -> LabelMap:
    """Labels as integers.

    Raises
    ------
    MsdmError
        A value is no whole number, is below 0, or does not fit 32 bits; or there are not two axes.
    """
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise MsdmError(
            f"{where} has labels of shape {values.shape} and type {values.dtype}; a label map is (H, W) of "
            "whole "
            f"numbers"
        )
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    fits = low >= 0 and high < 2**31  # also false where a value is no number
    if not fits or (values.dtype.kind == "f" and (values % 1).any()):
        raise MsdmError(
            f"{where} has labels from {low} to {high} of type {values.dtype}; labels are whole numbers from 0"
        )
    return values.astype(np.int32)


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width, read off the header."""
    with _opened(path) as picture:
        return picture.height, picture.width


def check_pixels(size: tuple[int, int], where: str) -> None:
    """Refuse a size before there is an array of it.

    Raises
    ------
    MsdmError
        It is not positive, or is above Pillow's limit against decompression bombs.
    """
    limit = Pillow.MAX_IMAGE_PIXELS or 2**31
    if min(size) < 1 or size[0] * size[1] > limit:
        raise MsdmError(
            f"{where} says that it is {size[0]} x {size[1]}; a field has 1 to {limit} pixels: cut it into "
            "tiles"
        )


def read_json(path: Path, **options: Any) -> Any:
    """A JSON file.

    Parameters
    ----------
    path : Path
    **options
        Of `json.load`.

    Raises
    ------
    MsdmError
        It is too large, not UTF-8, not JSON, or nested too deeply.
    """
    check_size(path, MAX_JSON, "split it by image")
    try:
        return json.loads(path.read_bytes(), **options)
    except OSError as error:
        raise MsdmError(f"cannot read {path}: {error.strerror}; it must be a readable file") from None
    except (ValueError, RecursionError) as error:
        cause = (
            "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        )
        raise MsdmError(f"{path} is no JSON file, or damaged ({cause}); export it again") from None


def check_size(path: Path, limit: int, advice: str) -> None:
    """Refuse a file by its size.

    Raises
    ------
    MsdmError
        It is larger than `limit` bytes, or cannot be read.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise MsdmError(f"cannot read {path}: {error.strerror}; it must be a readable file") from None
    if not stat.S_ISREG(found.st_mode):
        raise MsdmError(f"{path} is no file but a folder, a pipe or a device; give a file")
    if found.st_size > limit:
        raise MsdmError(f"{path} has {found.st_size} bytes, and at most {limit} are read; {advice}")


def head(path: Path, count: int = 4096) -> bytes:
    """The first bytes of a file; none where it cannot be read."""
    try:
        with open(path, "rb") as handle:
            return handle.read(count)
    except OSError:
        return b""


def tail(path: Path, count: int = 4096) -> bytes:
    """The last bytes of a file; none where it cannot be read."""
    try:
        with open(path, "rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - count))
            return handle.read()
    except OSError:
        return b""


@contextmanager
def _opened(path: Path) -> Iterator[Pillow.Image]:
    """A picture that is open; what Pillow raises becomes a message."""
    try:
        check_png(path)
        check_tiff(path)
        with Pillow.open(path, formats=_FORMATS) as picture:
            check_pixels((picture.height, picture.width), str(path))
            if getattr(picture, "n_frames", 1) > 1:
                raise MsdmError(f"{path} holds several pictures, and legal is one; save each as a file")
            yield picture
    except FileNotFoundError:
        raise MsdmError(f"{path} is missing; put the file there") from None
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning):
        raise MsdmError(f"{path} has more pixels than the limit against bombs; cut it into tiles") from None
    except UnidentifiedImageError:
        raise MsdmError(f"{path} is no PNG, TIFF, JPEG or BMP that can be read; save it again") from None
    except MsdmError:
        raise
    # What Pillow raises on a damaged file depends on where the damage lies.
    except Exception as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise MsdmError(f"{path} is damaged or cannot be read ({cause}); copy or save it again") from None


def _bits(picture: Pillow.Image, path: Path) -> int:
    """Bits per channel in the file, which Pillow's mode does not tell: it reads 16-bit RGB as 8-bit."""
    if picture.format == "PNG":
        return head(path, 25)[24]  # IHDR (PNG specification, 11.2.1)
    if picture.format == "TIFF":
        depths = picture.tag_v2.get(258, (1,))  # type: ignore[attr-defined]  # TIFF 6.0, BitsPerSample
        return int(max(depths)) if isinstance(depths, tuple) else int(depths)
    return 8


def read_npy_header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of a .npy stream; it stands at the data then.

    Raises
    ------
    MsdmError
        It is no .npy, or holds Python objects, which only a pickle can.
    """
    cause = ""
    try:
        version = np.lib.format.read_magic(stream)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers as Python 2 wrote them
            shape, fortran, dtype = read(stream)
        if any(type(side) is not int or side < 0 for side in shape):
            raise ValueError(f"its shape is {shape}")
    # what NumPy raises on a damaged header depends on where the damage lies
    except Exception as error:
        cause = " ".join(str(error).split()) or "its header is nested too deeply"
    if cause:  # out here: Python's parser says MemoryError of brackets, and memory is not what lacks
        raise MsdmError(f"{where} is no .npy file, or damaged ({cause}); copy it again")
    if dtype.hasobject:
        raise MsdmError(
            f"{where} holds Python objects (a pickle), which are not read; save plain numbers or text"
        )
    return shape, fortran, dtype
