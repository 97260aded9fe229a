"""The manifest: a CSV file with one row per field, and its `id` naming the field's files."""

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import MsdmError, did_you_mean
from .files import write_text
from .reading import read_text

# \w is a letter of any script, a digit or an underscore. No leading dot (a hidden file), and no space at
# either end (invisible in a spreadsheet).
_ID = re.compile(r"[\w-](?:[\w .-]*[\w.-])?")
# File systems end names at 255 bytes, and the suffix comes on top.
_ID_BYTES = 200
MOST_BYTES = 2**30
"""Of a manifest; in memory it takes several times that."""


def read_manifest(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Read a manifest.

    Parameters
    ----------
    path : path
        CSV, UTF-8 with or without a byte order mark, separated by commas; the first line names the columns,
        one of which is ``id``.

    Returns
    -------
    list of dict of str -> str
        At least one row, in the file's order; every row has every column. Values are not converted.

    Raises
    ------
    MsdmError
        The file is missing, is not UTF-8 or not CSV, has no rows, no ``id`` column, a column without a name
        or twice, a row with too few or too many values, an id twice, or an id that cannot name a file.
    """
    path = Path(path)
    rows = parse_manifest(_text(path), path)
    if not rows:
        raise MsdmError(f"{path} has no rows below its header; add one row per field")
    return rows


def parse_manifest(text: str, path: Path) -> list[dict[str, str]]:
    """The rows of a manifest's text, which may be none; `path` is for messages.

    Raises
    ------
    MsdmError
        As `read_manifest`.
    """
    lines, cut = _lines(text, path)
    if not lines:
        raise MsdmError(f"{path} is empty; the first line names the columns, and one of them is id")
    (_, columns), body = lines[0], lines[1:]
    if "id" not in columns:
        raise MsdmError(
            f"{path} has no id column, its columns are: {', '.join(map(repr, columns))}; "
            f"name one id, and separate columns by commas"
        )
    for number, column in enumerate(columns, 1):
        if not column.strip():
            raise MsdmError(f"{path}: column {number} has no name; name it or delete it")
        if columns.count(column) > 1:
            raise MsdmError(f"{path}: column {column!r} is there {columns.count(column)} times; keep one")
    for number, cells in body:
        if len(cells) != len(columns):
            raise MsdmError(
                f"{path}, line {number}: {len(cells)} values for {len(columns)} columns; "
                f"give every column a value, and quote values that hold a comma{cut}"
            )
    rows = [dict(zip(columns, cells, strict=True)) for _, cells in body]
    check_ids([row["id"] for row in rows], path, [number for number, _ in body])
    return rows


def write_manifest(path: str | os.PathLike[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Write a manifest that `read_manifest` reads back as it was.

    Parameters
    ----------
    path : path
        Written under a temporary name and renamed.
    rows : sequence of mapping column -> str
        The columns are those of all rows, in the order in which they are first seen; a row without one gets
        an empty value.

    Raises
    ------
    MsdmError
        There are no rows, or an id is missing, there twice, or cannot name a file; or the file cannot be
        written.
    """
    write_text(path, manifest_text(rows, Path(path)))


def manifest_text(rows: Sequence[Mapping[str, str]], path: Path) -> str:
    """What `write_manifest` writes; `path` is for messages.

    Raises
    ------
    MsdmError
        As `write_manifest`.
    """
    if not rows:
        raise MsdmError(f"no rows to write to {path}; a manifest has at least one")
    check_ids([row.get("id", "") for row in rows], path, range(2, len(rows) + 2))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    # Before Python 3.13, the writer leaves a bare carriage return unquoted, and the reader then refuses it.
    odd = any("\r" in text for row in rows for item in row.items() for text in item)
    text = io.StringIO()
    writer = csv.DictWriter(
        text, columns, restval="", lineterminator="\n", quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def select_split(
    rows: Sequence[dict[str, str]], split: str | None, path: str | os.PathLike[str]
) -> list[dict[str, str]]:
    """The rows of one split.

    Parameters
    ----------
    rows : sequence of dict
    split : str or None
        A value of the ``split`` column; None or ``all`` takes every row.
    path : path
        The manifest, for the message.

    Returns
    -------
    list of dict
        At least one row, in the order of `rows`.

    Raises
    ------
    MsdmError
        No row is of that split, or there is no ``split`` column.
    """
    if split is None or split == "all":
        return list(rows)
    if rows and "split" not in rows[0]:
        raise MsdmError(
            f"{path} has no split column, so split {split!r} cannot be taken; add the column, or take all "
            f"rows with --split all (in a recipe: the split's name all)"
        )
    chosen = [row for row in rows if row["split"] == split]
    if not chosen:
        legal = {row["split"] for row in rows} | {"all"}
        raise MsdmError(f"{path} has no row of split {split!r}: {did_you_mean(split, legal)}")
    return chosen


def _text(path: Path) -> str:
    try:
        return read_text(path, MOST_BYTES)
    except FileNotFoundError:
        raise MsdmError(f"{path} is missing; write it with one row per field and a column id") from None
    except UnicodeDecodeError as error:
        raise MsdmError(
            f"{path} is not UTF-8 (byte 0x{error.object[error.start]:02x} at offset {error.start}); "
            f"save it as CSV UTF-8"
        ) from None
    except OSError as error:
        raise MsdmError(f"cannot read {path}: {error.strerror}; it must be a readable CSV file") from None


def _lines(text: str, path: Path) -> tuple[list[tuple[int, list[str]]], str]:
    """The records with their line numbers, blank lines left out; what to say of a wrong last line."""
    cut = (
        ""
        if text.endswith(("\n", "\r"))
        else "; where a job was stopped within the last line, run it again: it goes on"
    )
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells], cut
    except csv.Error as error:
        raise MsdmError(
            f"{path}, line {reader.line_num}: {error}; it must be CSV with commas and double quotes{cut}"
        ) from None


def check_ids(ids: Sequence[str], path: str | os.PathLike[str], lines: Sequence[int] = ()) -> None:
    """Check that ids can name files and are unique.

    Parameters
    ----------
    ids : sequence of str
    path : path
        The manifest, for the message.
    lines : sequence of int
        The line of each, where there are any.

    Raises
    ------
    MsdmError
        One cannot, or comes twice.
    """
    seen: dict[str, str] = {}
    for i, id in enumerate(ids):
        at = f", line {lines[i]}" if lines else ""
        if not _ID.fullmatch(id) or ".." in id or len(id.encode()) > _ID_BYTES:
            shown = repr(id) if len(id) <= _ID_BYTES else f"of {len(id)} characters"
            raise MsdmError(
                f"{path}{at}: id {shown} cannot name a file; use letters, digits, '.', '-', '_' and "
                f"inner spaces, no '..', no leading dot, at most {_ID_BYTES} bytes"
            )
        if id in seen:
            raise MsdmError(f"{path}{at}: id {id!r} is {seen[id]} too; ids must be unique")
        seen[id] = f"on line {lines[i]}" if lines else "there"
