"""PNG files, before Pillow decodes them (PNG specification, third edition, 5.3)."""

import os
import struct
from pathlib import Path

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS = 2**20


def check_png(path: Path) -> None:
    """Check that each chunk lies within the file: Pillow asks for as much memory as a chunk says it has.

    Files that are no PNG pass.

    Raises
    ------
    OSError
        The file is cut short or has no end of chunks, or cannot be read.
    """
    with open(path, "rb") as handle:
        if handle.read(len(_SIGNATURE)) != _SIGNATURE:
            return
        size = os.fstat(handle.fileno()).st_size
        for _ in range(_MOST_CHUNKS):
            head = handle.read(8)
            if len(head) < 8:
                return
            length, kind = struct.unpack(">I4s", head)
            if handle.tell() + length > size:
                name = kind.decode("latin-1")
                raise OSError(f"its chunk {name!r} says {length} bytes, which the file is too short for")
            if kind == b"IEND":
                return
            handle.seek(length + 4, os.SEEK_CUR)  # its content, and a checksum
    raise OSError(f"it has more than {_MOST_CHUNKS} chunks")
