"""Cellpose's `_seg.npy`: a pickled dictionary.

Loading a pickle runs what it names, so this one may name arrays only.

The file's layout: https://cellpose.readthedocs.io/en/latest/outputs.html
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError
from ...core.reading import read_bytes
from .base import LabelMap, Picture
from .reading import check_pixels, whole

MAX_SEG = 2**31
_NAMES = {
    **{
        (f"numpy.{core}.{module}", name): name
        for core in ("core", "_core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    },
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
}
"""What pickles of arrays name, in NumPy 1 and 2, and what it stands for here."""
_MOST_ITEM = 2**16
"""Bytes of a number or text of an array."""


class _ArrayType:
    """What `numpy.ndarray` is in the pickle: nothing that can be called, with a shape of any size."""


class _Type:
    """What a `numpy.dtype` is in the pickle: its own state could claim numbers to be references."""

    def __init__(self, code: str) -> None:
        self._code, self._order = code, "|"

    def __setstate__(self, state: Any) -> None:
        self._order = state[1]

    def made(self) -> np.dtype[Any]:
        found: np.dtype[Any] = np.dtype(f"{self._order}{self._code}")
        if found.itemsize > _MOST_ITEM or found.names is not None:
            raise pickle.UnpicklingError(f"it has numbers of {found.itemsize} bytes")
        return found


class _Array:
    """What an array is in the pickle, whose state names its shape, type, order and bytes, or objects."""

    content: Any = None

    def __setstate__(self, state: Any) -> None:
        shape, kind, columns_first, data = state[-4:]
        if kind.made().hasobject:
            self.content = data[0] if shape == () else None
        else:
            self.content = _frombuffer(data, kind, shape, "F" if columns_first else "C")


def _empty(kind: object, shape: object, code: object) -> _Array:
    """`_reconstruct`: an array that is filled from the file."""
    return _Array()


def _dtype(code: Any, *flags: object) -> _Type:
    return _Type(code)


def _scalar(kind: Any, data: Any) -> Any:
    return np.frombuffer(data, kind.made())[0]


def _frombuffer(data: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    if any(side < 0 for side in shape):
        raise pickle.UnpicklingError(f"it has a shape of {shape!r:.40}")
    found = np.frombuffer(data, kind.made()) if len(data) else np.zeros(0, kind.made())
    return found.reshape(shape, order=order)


def _encode(text: str, code: str) -> bytes:
    if code != "latin1":
        raise pickle.UnpicklingError(f"it encodes as {code!r:.40}")
    return text.encode("latin1")


_MADE = {
    "ndarray": _ArrayType(),
    "dtype": _dtype,
    "_reconstruct": _empty,
    "scalar": _scalar,
    "_frombuffer": _frombuffer,
    "encode": _encode,
}


class _Arrays(pickle.Unpickler):
    """Makes arrays, numbers, texts, lists and dictionaries, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _MADE[_NAMES[module, name]]


def _check_memo(data: bytes) -> None:
    """Refuse a pickle that numbers what it remembers so high that the numbers alone would fill memory."""
    for code, number, _ in pickletools.genops(data):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(str(number)) > len(data):
            raise pickle.UnpicklingError("it numbers its parts beyond their count")


def read_seg(path: Path) -> tuple[LabelMap, Picture | None]:
    """Masks of a `_seg.npy`, and its picture where it holds an RGB one of 8 bits.

    Parameters
    ----------
    path : Path
        Of a file that the user said may be read. Even so, only arrays are made of it.

    Raises
    ------
    MsdmError
        It is damaged, names anything but arrays, or has no masks.
    """
    try:
        # in memory, where a pickle is given no more than there is, whatever sizes it states
        stream = io.BytesIO(read_bytes(path, MAX_SEG))
        version = np.lib.format.read_magic(stream)
        if version[0] == 1:
            np.lib.format.read_array_header_1_0(stream)
        else:
            np.lib.format.read_array_header_2_0(stream)
        start = stream.tell()
        _check_memo(stream.read())
        stream.seek(start)
        content = _Arrays(stream).load()
        content = _plain(content)
        masks = _plain(content["masks"])
        if not isinstance(masks, np.ndarray):  # a list of lists of itself may stand for any number of them
            raise TypeError(f"its masks are {type(masks).__name__}")
    # A pickle, even of arrays only, can raise anything.
    except Exception as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise MsdmError(
            f"{path} is no _seg.npy of Cellpose, or not safe to read ({cause:.120}); save the masks as PNG "
            "instead"
        ) from None
    labels = whole(masks, f"{path}: masks")
    check_pixels((labels.shape[0], labels.shape[1]), f"{path}: masks")
    image = _plain(content.get("img"))
    usable = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == (*labels.shape, 3)
    return labels, image if usable else None


def _plain(value: Any) -> Any:
    return value.content if isinstance(value, _Array) else value
