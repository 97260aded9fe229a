"""Writing files so that none is ever half there."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from .errors import MsdmError


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
    except OSError as error:
        raise MsdmError(
            f"cannot write {target}: {error}; check the folder's permissions and the space on the disc"
        ) from error
    finally:
        # After the rename there is nothing under this name.
        if os.path.lexists(temporary):
            os.unlink(temporary)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes with `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8 with `atomic_write`; line ends are written as they are."""
    write_bytes(path, text.encode("utf-8"))


class AppendedFile:
    """A new file that grows by whole pieces, each written through to the disc, at the same cost each.

    Whatever way a process ends, the pieces that were appended are there. A power cut may leave the beginning
    of one more: of what is written, its reader must tell that.

    Parameters
    ----------
    path : path
        A new file; it is made, with its folder, when the first piece comes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._handle: FileIO | None = None

    @property
    def begun(self) -> bool:
        """Whether there is a piece, and the file is not closed."""
        return self._handle is not None

    def append(self, data: bytes) -> None:
        """Write a piece.

        Raises
        ------
        MsdmError
            The file was there already, or cannot be written; it is then as it was before.
        """
        try:
            if self._handle is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._handle = open(self.path, "xb", buffering=0)  # noqa: SIM115
            end = self._handle.tell()
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
