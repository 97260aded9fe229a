"""Whether a TIFF is all there: about one that is cut short, Pillow and libtiff print lines of their own."""

import struct
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
        start = handle.read(16)
        order = _ORDERS.get(start[:2])
        if order is None or len(start) < 16:
            return
        version = struct.unpack(f"{order}H", start[2:4])[0]
        if version == 42:
            at, layout = struct.unpack(f"{order}I", start[4:8])[0], "HI"
        elif version == 43:
            at, layout = struct.unpack(f"{order}Q", start[8:16])[0], "QQ"
        else:
            return
        found = _directory(handle, path.stat().st_size, order, at, *layout)
    if found.get(_COMPRESSION, [1])[0] != 1:
        for starts, lengths in ((273, 279), (324, 325)):
            pairs = zip(found.get(starts, []), found.get(lengths, []), strict=False)
            _check(max((start + length for start, length in pairs), default=0), path.stat().st_size)


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
