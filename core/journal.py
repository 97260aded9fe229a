"""CSV files that grow while a job runs, and what a job that was killed leaves of them."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .errors import MsdmError
from .files import AppendedFile, remove, write_bytes
from .manifest import MOST_BYTES, check_ids, parse_manifest
from .reading import read_bytes


class GrowingCsv:
    """CSV that grows by some rows at a time, each time written through to the disc, at the same cost.

    Every value is quoted, so that the beginning of a row that was never finished can be told from a whole
    one: see `whole_rows`.

    Parameters
    ----------
    path : path
        A file that is there is gone on with: its last row is whole, and its columns are these.
    columns : sequence of str
    """

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str]) -> None:
        self.path = Path(path)
        self._head: list[Sequence[str]] = [] if _has_bytes(self.path) else [columns]
        self._file = AppendedFile(self.path)

    def add(self, rows: Iterable[Sequence[object]]) -> None:
        """Write rows; the file is made, with its columns, when the first ones come.

        Raises
        ------
        MsdmError
            The file cannot be written; it is then as it was before.
        """
        self._file.append(_csv([*self._head, *rows]))
        self._head = []

    def close(self) -> None:
        """End; nothing can be added any more."""
        self._file.close()


class Journal:
    """A manifest that grows by a row at a time; a context manager.

    Whatever way a process ends, the rows that were added are on the disc, and `read_journal` returns them.
    The id comes last: where a row was cut off, `read_manifest` finds an open quote, too few values or an
    empty id, and refuses the file.

    Parameters
    ----------
    path : path
        A file that is there is gone on with; `begin_journal` makes one of rows.
    ids : iterable of str
        Of the rows that are there.
    """

    def __init__(self, path: str | os.PathLike[str], ids: Iterable[str] = ()) -> None:
        self.path = Path(path)
        self._ids = set(ids)
        self._columns: list[str] = []
        self._rows: GrowingCsv | None = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End; nothing can be added any more."""
        if self._rows is not None:
            self._rows.close()

    def add(self, row: Mapping[str, str]) -> None:
        """Write a row through to the disc.

        Raises
        ------
        MsdmError
            The id is missing, was added before, or cannot name a file; the columns are not those of the other
            rows; or the file cannot be written.
        """
        id = row.get("id", "")
        check_ids([id], self.path)
        if id in self._ids:
            raise MsdmError(f"{self.path}: id {id!r} was added before; ids must be unique")
        if self._rows is None:
            there = read_journal(self.path)
            self._columns = _columns(there[:1] or [row])
            self._rows = GrowingCsv(self.path, self._columns)
        _check_columns(row, self._columns, self.path)
        self._rows.add([[row[column] for column in self._columns]])
        self._ids.add(id)


def begin_journal(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write the file that a `Journal` goes on with, in place of what is there; none where there are no rows.

    Raises
    ------
    MsdmError
        The rows differ in their columns, or the file cannot be written.
    """
    if not rows:
        remove(path)
        return
    columns = _columns(rows)
    for row in rows:
        _check_columns(row, columns, path)
    write_bytes(path, _csv([columns, *([row[column] for column in columns] for row in rows)]))


def read_journal(path: Path) -> list[dict[str, str]]:
    """The whole rows of a manifest; of a file that is not there, none.

    Returns
    -------
    list of dict of str -> str
        As of `read_manifest`, but with the id first.

    Raises
    ------
    MsdmError
        The file is damaged in another way than that its last row is cut off.
    """
    try:
        data = read_bytes(path, MOST_BYTES)
        text = data[: whole_rows(io.BytesIO(data))].decode("utf-8-sig")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise MsdmError(f"{path} cannot be read ({error}); put back a copy, or delete the folder") from None
    rows = parse_manifest(text, path) if text else []
    return [{"id": row["id"], **row} for row in rows]


def whole_rows(lines: Iterable[bytes]) -> int:
    """The bytes of CSV up to the end of its last whole row.

    Parameters
    ----------
    lines : iterable of bytes
        The file, line by line, with line ends.

    Notes
    -----
    A line end is that of a row where as many quotes were opened as closed: within a value they are doubled.
    """
    end = at = quotes = 0
    for line in lines:
        at += len(line)
        quotes += line.count(b'"')
        if line.endswith(b"\n") and quotes % 2 == 0:
            end = at
    return end


def _has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _columns(rows: Sequence[Mapping[str, str]]) -> list[str]:
    return [*(column for column in rows[0] if column != "id"), "id"]


def _check_columns(row: Mapping[str, str], columns: Sequence[str], path: Path) -> None:
    if odd := row.keys() ^ set(columns):
        raise MsdmError(f"{path}: column {min(odd)!r} is in some rows only; give every row the same columns")


def _csv(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue().encode()
