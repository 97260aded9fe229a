"""Reading files that are not trusted: regular ones only, of a size that was looked at first."""

import errno
import json
import os
import stat
from typing import Any

MIB = 2**20


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a file.

    Parameters
    ----------
    path : path
    limit : int
        Most bytes.

    Raises
    ------
    OSError
        There is no such file, it cannot be read, it is no regular file (a pipe has no end), or it is too
        large. `strerror` says which.
    """
    # asked of the open file, and opened without waiting for a pipe's other end
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no file but a folder, a pipe or a device", str(path))
        if found.st_size > limit:
            said = f"it has {found.st_size} bytes, and at most {limit} are read"
            raise OSError(errno.EFBIG, said, str(path))
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(found.st_size)
    finally:
        os.close(handle)


def read_text(path: str | os.PathLike[str], limit: int = 16 * MIB) -> str:
    """The content of a file of UTF-8, with or without a byte order mark; line ends as they are.

    Raises
    ------
    OSError
        As `read_bytes`.
    UnicodeDecodeError
        It is not UTF-8.
    """
    return read_bytes(path, limit).decode("utf-8-sig")


def parse_json(text: str | bytes) -> Any:
    """The value of a text of JSON.

    Raises
    ------
    ValueError
        It is none, whatever is wrong with it: also where it is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a file; not where the text is no path that there can be, such as one too long."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False
