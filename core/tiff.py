"""Whether a TIFF is all there: about one that is cut short, Pillow and libtiff print lines of their own."""

import ctypes
import os
import struct
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

_ORDERS = {b"II": "<", b"MM": ">"}
# TIFF 6.0, section 2, and BigTIFF: bytes of a value by type
_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # others have 1
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_COMPRESSION = 259
_NEEDED = frozenset((258, _COMPRESSION, 273, 279, 320, 324, 325, 339))
"""BitsPerSample, Compression, StripOffsets, StripByteCounts, ColorMap, TileOffsets, TileByteCounts,
SampleFormat."""


def check_tiff(path: Path) -> None:
    """Check that the first picture's directory and its compressed pixels lie within the file.

    Files that are no TIFF pass. So do uncompressed pixels: some writers declare too many, and those that are
    really missing are found, without a word of its own, by Pillow.

    Raises
    ------
    OSError
        The file is cut short, or cannot be read.
    """
    with open(path, "rb") as handle:
        head = _head(handle)
        if head is None:
            return
        _silence_libtiff()
        found = _directory(handle, path.stat().st_size, *head)
    if found.get(_COMPRESSION, [1])[0] != 1:
        for starts, lengths in ((273, 279), (324, 325)):
            pairs = zip(found.get(starts, []), found.get(lengths, []), strict=False)
            _check(max((start + length for start, length in pairs), default=0), path.stat().st_size)


def check_chain(path: Path) -> None:
    """Check that a TIFF's directories, each of which says where the next one is, come to an end.

    Raises
    ------
    OSError
        They lead in a circle, which some readers follow for ever, or the file cannot be read.
    """
    with open(path, "rb") as handle:
        head = _head(handle)
        if head is None:
            return
        order, at, counter, offset = head
        number, place = struct.Struct(order + counter), struct.Struct(order + offset)
        seen: set[int] = set()
        while at:
            if at in seen:
                raise OSError("its directories lead in a circle")
            seen.add(at)
            handle.seek(at)
            count = handle.read(number.size)
            if len(count) < number.size:
                return
            handle.seek(number.unpack(count)[0] * (4 + 2 * place.size), os.SEEK_CUR)
            following = handle.read(place.size)
            at = place.unpack(following)[0] if len(following) == place.size else 0


def _head(handle: IO[bytes]) -> tuple[str, int, str, str] | None:
    """Byte order, where the first directory is, and codes of its counts and offsets; None of no TIFF."""
    start = handle.read(16)
    order = _ORDERS.get(start[:2])
    if order is None or len(start) < 16:
        return None
    version = struct.unpack(f"{order}H", start[2:4])[0]
    if version == 42:
        return order, struct.unpack(f"{order}I", start[4:8])[0], "H", "I"
    if version == 43:
        return order, struct.unpack(f"{order}Q", start[8:16])[0], "Q", "Q"
    return None


@cache
def _silence_libtiff() -> None:
    """Keep libtiff from printing lines of its own, where Pillow has it as a shared library."""
    from PIL import _imaging

    with suppress(OSError, AttributeError):
        # looked up in Pillow's library and what it was linked with; what went wrong, Pillow raises
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def _directory(
    handle: IO[bytes], size: int, order: str, at: int, counter: str, offset: str
) -> dict[int, tuple[int, ...]]:
    """The tags of a directory that pixels cannot be read without, where they are whole numbers."""
    number = struct.Struct(order + counter)
    entry = struct.Struct(f"{order}HH{offset}")
    inline = struct.calcsize(f"{order}{offset}")
    _check(at + number.size, size)
    handle.seek(at)
    (count,) = number.unpack(handle.read(number.size))
    # after it comes where the next picture's is
    _check(at + number.size + count * (entry.size + inline) + inline, size)
    table = handle.read(count * (entry.size + inline))
    found = {}
    for k in range(count):
        tag, kind, values = entry.unpack_from(table, k * (entry.size + inline))
        if tag not in _NEEDED:
            continue
        length = _BYTES.get(kind, 1) * values
        data = table[k * (entry.size + inline) + entry.size :][:inline]
        if length > inline:
            (place,) = struct.unpack(f"{order}{offset}", data)
            _check(place + length, size)
            handle.seek(place)
            data = handle.read(length)
        if kind in _WHOLE_NUMBERS:
            found[tag] = struct.unpack(f"{order}{values}{_WHOLE_NUMBERS[kind]}", data[:length])
    return found


def _check(end: int, size: int) -> None:
    if end > size:
        raise OSError(f"the file has {size} bytes and goes on to byte {end} at least: it is cut short")
