"""ZIP archives that are not trusted: nothing is unpacked to the disc, and nothing too large is read."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import MsdmError
from .source import check_name

MAX_ARCHIVE = 2**36
"""Bytes that an archive may declare, unpacked; a fold of PanNuke has 12 GB."""


def open_zip(path: Path) -> zipfile.ZipFile:
    """An archive whose names, and declared sizes, are checked.

    Raises
    ------
    MsdmError
        It is damaged, encrypted, declares more than `MAX_ARCHIVE` bytes, or has a name that leads out of it.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise MsdmError(f"{path} is no ZIP archive, or damaged ({error}); copy it again") from None
    try:
        for member in archive.infolist():
            # not the name that zipfile shows, which has backslashes turned into slashes
            check_name(member.orig_filename, path)
            if member.compress_size > path.stat().st_size:  # so many would be asked for at once
                raise MsdmError(f"{path}: {member.filename!r} goes on beyond its end; copy it again")
            if member.flag_bits & 1:
                raise MsdmError(f"{path} is encrypted; unpack it, and give the folder")
        declared = sum(member.file_size for member in archive.infolist())
        if declared > MAX_ARCHIVE:
            raise MsdmError(
                f"{path} declares {declared} bytes unpacked, and at most {MAX_ARCHIVE} are read; if it can "
                "be "
                f"trusted, unpack it and give the folder"
            )
    except MsdmError:
        archive.close()
        raise
    return archive


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A small file of an archive.

    Raises
    ------
    MsdmError
        It declares more than `limit` bytes, or is damaged.
    """
    check_member(archive, name, limit)
    with unpacking(f"{archive.filename}: {name}"):
        return archive.read(name)


def check_member(archive: zipfile.ZipFile, name: str, limit: int) -> None:
    """Refuse a file of an archive by the size that it declares.

    Raises
    ------
    MsdmError
        It declares more than `limit` bytes.
    """
    size = archive.getinfo(name).file_size
    if size > limit:
        raise MsdmError(
            f"{archive.filename}: {name} declares {size} bytes unpacked, and at most {limit} are read; is it "
            f"a bomb?"
        )


@contextmanager
def unpacking(where: str) -> Iterator[None]:
    """What unpacking raises becomes a message."""
    try:
        yield
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise MsdmError(f"{where} is damaged or cannot be unpacked ({error}); copy it again") from None
