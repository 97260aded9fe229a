"""A data folder that appears when it is complete."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.errors import MsdmError


def check_new(folder: Path, source: Path | None = None) -> None:
    """Check that a folder is new or empty, and does not lie in the one that is read.

    Parameters
    ----------
    folder : Path
    source : Path or None
        What is read.

    Raises
    ------
    MsdmError
        It is not, or does.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise MsdmError(f"{folder} is not an empty folder; choose another")
    if source is not None and source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        raise MsdmError(f"{folder} lies in {source}, which is read; choose a folder elsewhere")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Write a folder under a temporary name beside it; it takes its own name when all is in it.

    Parameters
    ----------
    folder : Path
        New or empty; see `check_new`.

    Yields
    ------
    Path
        The temporary folder. After an exception nothing is left.

    Raises
    ------
    MsdmError
        The folder cannot be written.
    """
    temporary = folder.parent / f".{folder.name}-{secrets.token_hex(8)}.tmp"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if hasattr(os, "sync"):
            os.sync()  # once, and not for every file
        if folder.is_dir():
            folder.rmdir()
        os.replace(temporary, folder)
    except OSError as error:
        raise MsdmError(
            f"cannot write {folder}: {error}; check the permissions and the space on the disc"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
