"""An index of `instances.csv`: classes are read field by field, so that memory does not grow with them."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from ..core.errors import MsdmError
from .instances import COLUMNS, INSTANCES, LABEL

Spans = tuple[tuple[int, int], ...]
"""Where the rows of a field lie in the file: first byte, and the byte after the last."""


def index_instances(
    root: Path, ids: Iterable[str], kinds: Sequence[str], name: str = INSTANCES
) -> tuple[dict[str, Spans], dict[str, set[str]]]:
    """Where each field's rows lie, and the names of classes in them by kind.

    Parameters
    ----------
    root : Path
        A data folder; without an `instances.csv`, both are empty.
    ids : iterable of str
        Fields; rows of others are passed over.
    kinds : sequence of str
        Mask kinds of which names are wanted.
    name : str
        Of the file.

    Raises
    ------
    MsdmError
        The file is damaged.
    """
    path, wanted = root / name, set(ids)
    spans: dict[str, list[tuple[int, int]]] = {}
    names: dict[str, set[str]] = {}
    if not path.is_file():
        return {}, names
    try:
        with open(path, "rb") as handle:
            lines = _Lines(handle)
            reader = csv.reader(lines, strict=True)
            if next(reader, None) != COLUMNS:
                raise MsdmError(
                    f"{path} must begin with the columns {','.join(COLUMNS)}; write it so, or delete it"
                )
            start, before = lines.position, ""
            for cells in reader:
                _check(cells, path, reader.line_num)
                id, kind, _, called = cells
                if id in wanted:
                    found = spans.setdefault(id, [])
                    if id == before and found:
                        found[-1] = (found[-1][0], lines.position)
                    else:
                        found.append((start, lines.position))
                    if called and kind in kinds:
                        names.setdefault(kind, set()).add(called)
                start, before = lines.position, id
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MsdmError(f"{path} cannot be read ({error}); it must be CSV, UTF-8, with commas") from None
    return {id: tuple(found) for id, found in spans.items()}, names


def classes_at(root: Path, id: str, spans: Spans, name: str = INSTANCES) -> dict[str, dict[int, str]]:
    """The classes of a field's instances by kind and label, read where `index_instances` found them.

    Raises
    ------
    MsdmError
        The file has been changed since, or is gone.
    """
    found: dict[str, dict[int, str]] = {}
    if not spans:
        return found
    path = root / name
    try:
        with open(path, "rb") as handle:
            for start, stop in spans:
                handle.seek(start)
                text = handle.read(stop - start).decode("utf-8")
                for cells in csv.reader(io.StringIO(text, newline=""), strict=True):
                    if not _is_row(cells) or cells[0] != id:
                        raise ValueError("others are there")
                    if cells[3]:
                        found.setdefault(cells[1], {})[int(cells[2])] = cells[3]
                if handle.tell() != stop:
                    raise ValueError("it is shorter")
    except (OSError, ValueError, csv.Error) as error:
        raise MsdmError(
            f"the rows of field {id!r} are no longer where they were in {path} ({error}); leave data alone "
            f"while they are in use, and start again"
        ) from None
    return found


class InstanceIndex:
    """Classes of the instances of some fields, read from the file when they are asked for.

    Parameters
    ----------
    root : Path
        A data folder.
    ids : iterable of str
        Fields.
    name : str
        Of the file.
    kinds : sequence of str
        Mask kinds of which `names` are wanted.

    Attributes
    ----------
    names : dict of str -> set of str
        The classes that there are, by mask kind.

    Raises
    ------
    MsdmError
        The file is damaged.
    """

    def __init__(
        self, root: Path, ids: Iterable[str], name: str = INSTANCES, *, kinds: Sequence[str] = ()
    ) -> None:
        self._root, self._name = root, name
        self._spans, self.names = index_instances(root, ids, kinds, name)

    def __bool__(self) -> bool:
        return bool(self._spans)

    def of(self, id: str) -> dict[str, dict[int, str]]:
        """The classes of a field by kind and label; empty where it has none."""
        return classes_at(self._root, id, self._spans.get(id, ()), self._name)


class _Lines:
    """Lines of text of a file of bytes, and how far they have been read."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self.position = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._handle:
            first = self.position == 0
            self.position += len(line)
            yield line.decode("utf-8-sig" if first else "utf-8")


def _is_row(cells: list[str]) -> bool:
    return len(cells) == len(COLUMNS) and LABEL.fullmatch(cells[2]) is not None


def _check(cells: list[str], path: Path, line: int) -> None:
    if not _is_row(cells):
        raise MsdmError(f"{path}, line {line}: {','.join(cells)!r:.60} is no id, kind, label, class")
