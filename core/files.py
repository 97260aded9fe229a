"""Writing files so that none is ever half there."""

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from .errors import MsdmError

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")
_HELD: set[int] = set()
"""Descriptors of what this process has claimed."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file under a temporary name; it takes its own name when it is complete.

    Parameters
    ----------
    path : path
        Where the file will be. Its folder is made where it is missing; a file that is there is replaced.

    Yields
    ------
    Path
        A new name in the same folder (a rename is atomic within one file system only). It ends in ``.tmp``:
        writers that tell the format by the suffix must be told it.

    Raises
    ------
    MsdmError
        The file cannot be written (no permission, disc full, a folder in the way). As on any exception of the
        body, the temporary file is removed and `path` is as it was.
    """
    target = Path(path)
    # Not tempfile: it makes files that only their owner can read, and the mode survives the rename.
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        # Without the fsync, a power cut can leave the new name on an empty file.
        with open(temporary, "r+b") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise MsdmError(
            f"cannot write {target}: {error}; check the folder's permissions and the space on the disc"
        ) from error
    finally:
        # After the rename there is nothing under this name. On a disc that has become read-only the file
        # stays, until `remove_temporary`: what went wrong first says what went wrong.
        with suppress(OSError):
            os.unlink(temporary)


def sync_folder(folder: Path) -> None:
    """Write a folder's list of names through to the disc, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some file systems of a network keep no such list themselves, and say so.
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def remove_temporary(folder: Path) -> None:
    """Delete the temporary files that `atomic_write` left in a folder where its process was killed.

    Raises
    ------
    MsdmError
        One cannot be deleted.
    """
    for path in folder.glob(".*.tmp") if folder.is_dir() else ():
        if _TEMPORARY.fullmatch(path.name):
            remove(path)


def make_folder(folder: Path) -> None:
    """Make a folder, where it is not there.

    Raises
    ------
    MsdmError
        It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MsdmError(
            f"cannot make folder {folder}: {error.strerror}; check the permissions, or choose another"
        ) from None


def is_new(folder: Path) -> bool:
    """Whether a folder is not there, or empty but for what `remove_temporary` deletes."""
    return not folder.is_file() and not (
        folder.is_dir() and any(not _TEMPORARY.fullmatch(path.name) for path in folder.iterdir())
    )


def remove(path: Path) -> None:
    """Delete a file, where it is there.

    Raises
    ------
    MsdmError
        It cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise MsdmError(f"cannot delete {path}: {error.strerror}; check the folder's permissions") from None


def remove_folder(folder: Path) -> None:
    """Delete a folder with all that is in it, where it is there.

    Raises
    ------
    MsdmError
        Something in it cannot be deleted.
    """
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise MsdmError(f"cannot delete {folder}: {error.strerror}; check the folder's permissions") from None


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextmanager
def claimed(path: Path, what: str) -> Iterator[None]:
    """Keep other processes from a piece of work while this one is at it, whatever way it ends.

    Parameters
    ----------
    path : Path
        A file or a folder that is there: a lock on it stands for the work.
    what : str
        The work, for the message.

    Raises
    ------
    MsdmError
        Another process is at it.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # Windows has no such locks
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    _HELD.add(handle)
    try:
        try:
            flock(handle, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise MsdmError(f"another process is {what}; let it end, or choose another folder") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        _HELD.discard(handle)
        os.close(handle)


def _let_go() -> None:
    """In a process that was forked: a lock would else last until the last of those ends."""
    for handle in _HELD:
        os.close(handle)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes with `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8 with `atomic_write`; line ends are written as they are."""
    write_bytes(path, text.encode("utf-8"))


class AppendedFile:
    """A file that grows by whole pieces, each written through to the disc, at the same cost each.

    Whatever way a process ends, the pieces that were appended are there. It may leave the beginning of one
    more: of what is written, its reader must tell that.

    Parameters
    ----------
    path : path
        It is opened when the first piece comes; where it is not there, it is made then, with its folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._handle: FileIO | None = None

    def append(self, data: bytes) -> None:
        """Write a piece.

        Raises
        ------
        MsdmError
            The file cannot be written; it is then as it was before.
        """
        try:
            if self._handle is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._handle = open(self.path, "ab", buffering=0)  # noqa: SIM115
                sync_folder(self.path.parent)
            end = os.fstat(self._handle.fileno()).st_size
            if self._handle.write(data) < len(data):
                self._handle.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._handle.fileno())
        except OSError as error:
            raise MsdmError(
                f"cannot write {self.path}: {error.strerror}; check the folder and the space on the disc"
            ) from error

    def close(self) -> None:
        """End; nothing can be appended any more."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None
