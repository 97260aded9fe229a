"""Matrices of numbers in MATLAB's MAT-files of level 5 (versions 5 to 7.2), for files that are not trusted.

SciPy's reader ends the process on some damaged files; this one reads no more than numbers need. The format:
https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Of a data element's numbers, which may be narrower than those of the matrix."""
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""Of a matrix of numbers; cells, structures, texts and sparse matrices have others."""
_COMPLEX = 0x0800
_HEAD = 4096
"""Bytes of a variable in which its name and shape lie."""
_MOST_AXES = 32


class MatError(Exception):
    """What is wrong with the file."""


class NewerMatError(MatError):
    """The file is of MATLAB 7.3, which is HDF5."""


@dataclass(frozen=True)
class Matrix:
    """A variable of a MAT-file.

    Attributes
    ----------
    name : str
    shape : tuple of int
    numeric : bool
        Whether it is a matrix of real numbers.
    read : callable () -> ndarray
        Reads it; to be called only for a shape that there is memory for.
    """

    name: str
    shape: tuple[int, ...]
    numeric: bool
    read: Callable[[], NDArray[np.number]]


def variables(data: bytes, wanted: Collection[str]) -> Iterator[Matrix]:
    """The variables of a file; those that are not wanted have no shape.

    Raises
    ------
    NewerMatError
        The file is of MATLAB 7.3.
    MatError
        The file is damaged, or of another level.
    """
    if len(data) < 128 or data[126:128] not in (b"IM", b"MI"):
        raise MatError("no header of level 5")
    order = "<" if data[126:128] == b"IM" else ">"
    if struct.unpack(f"{order}H", data[124:126])[0] == 0x0200:
        raise NewerMatError
    at = 128
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        content = memoryview(data)[at + 8 : at + 8 + size]
        if len(content) != size:
            raise MatError("it is cut short")
        if kind == _MATRIX:
            yield _matrix(content, content, order, wanted)
        elif kind == _COMPRESSED:
            start = memoryview(_inflated(content, 8 + _HEAD))
            if len(start) < 8 or struct.unpack_from(f"{order}I", start)[0] != _MATRIX:
                raise MatError("a compressed variable holds no matrix")
            yield _matrix(start[8:], content, order, wanted, compressed=True)
        at += 8 + size
        if kind != _COMPRESSED:
            at += -at % 8


def _inflated(content: memoryview, most: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(content, most)
    except zlib.error as error:
        raise MatError(str(error)) from None


def _matrix(
    head: memoryview, content: memoryview, order: str, wanted: Collection[str], *, compressed: bool = False
) -> Matrix:
    """A variable from its first bytes; its content is what it is read from later."""
    flags, at = _element(head, 0, order)
    shape, at = _element(head, at, order)
    name, at = _element(head, at, order)
    if len(flags) < 8 or len(shape) % 4 or len(shape) > 4 * _MOST_AXES:
        raise MatError("a variable has no flags, or no shape")
    sizes = struct.unpack(f"{order}{len(shape) // 4}i", shape)
    if min(sizes, default=-1) < 0:
        raise MatError("a side is negative")
    flag = struct.unpack_from(f"{order}I", flags)[0]
    kind = _CLASSES.get(flag & 0xFF)
    count = int(np.prod(sizes, dtype=object))

    def read() -> NDArray[np.number]:
        # numbers are of 8 bytes at most, whatever the file says
        whole = memoryview(_inflated(content, 16 + at + 8 * count)[8:]) if compressed else content
        stored = _numbers(whole, at, order, count)
        try:
            with np.errstate(invalid="raise"):  # numpy only warns, and makes numbers up
                return stored.astype(f"{order}{kind}").reshape(sizes, order="F")
        except FloatingPointError:
            raise MatError("it has numbers that are none of its class") from None

    text = bytes(name).decode("latin-1").rstrip("\0")
    return Matrix(text, sizes if text in wanted else (), kind is not None and not flag & _COMPLEX, read)


def _numbers(content: memoryview, at: int, order: str, count: int) -> NDArray[np.number]:
    kind, size, start = _tag(content, at, order)
    if kind not in _TYPES:
        raise MatError(f"numbers of type {kind}")
    dtype = np.dtype(f"{order}{_TYPES[kind]}")
    if size != count * dtype.itemsize or start + size > len(content):
        raise MatError("numbers are missing")
    return np.frombuffer(content[start : start + size], dtype)


def _tag(content: memoryview, at: int, order: str) -> tuple[int, int, int]:
    """Type and bytes of a data element, and where they begin."""
    if at + 8 > len(content):
        raise MatError("it is cut short")
    kind, size = struct.unpack_from(f"{order}II", content, at)
    if kind >> 16:  # a small element, which lies within its tag
        return kind & 0xFFFF, kind >> 16, at + 4
    return kind, size, at + 8


def _element(content: memoryview, at: int, order: str) -> tuple[memoryview, int]:
    """The bytes of a data element, and where the next one begins."""
    _, size, start = _tag(content, at, order)
    end = start + size
    if end > len(content) or (start == at + 4 and size > 4):
        raise MatError("it is cut short, or a name or shape is too long")
    return content[start:end], end + (-end % 8 if start == at + 8 else 8 - 4 - size)
