"""Classes of instances: `instances.csv` in a data folder, beside the manifest.

One row per instance that has a class: id of the field, mask kind, label in that mask, class.
"""

import csv
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from ..core.errors import MsdmError
from ..core.journal import GrowingCsv
from ..core.sample import Labels

INSTANCES = "instances.csv"
COLUMNS = ["id", "kind", "label", "class"]
LABEL = re.compile("[0-9]{1,10}")
Classes = Mapping[str, Mapping[int, str]]
"""Class by label, by mask kind."""


def read_instances(root: Path) -> dict[str, dict[str, dict[int, str]]]:
    """Classes of a data folder's instances, by id of the field, mask kind and label.

    Returns
    -------
    dict
        Of instances that have one; empty where the folder has no `instances.csv`.

    Raises
    ------
    MsdmError
        The file is damaged.
    """
    path = root / INSTANCES
    found: dict[str, dict[str, dict[int, str]]] = {}
    if not path.is_file():
        return found
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, strict=True)
            if next(reader, None) != COLUMNS:
                raise MsdmError(
                    f"{path} must begin with the columns {','.join(COLUMNS)}; write it so, or delete it"
                )
            for cells in reader:
                if len(cells) != len(COLUMNS) or not LABEL.fullmatch(cells[2]):
                    raise MsdmError(
                        f"{path}, line {reader.line_num}: {','.join(cells)!r:.60} is no id, kind, label, "
                        "class"
                    )
                id, kind, label, name = cells
                if name:
                    found.setdefault(id, {}).setdefault(kind, {})[int(label)] = name
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MsdmError(f"{path} cannot be read ({error}); it must be CSV, UTF-8, with commas") from None
    return found


class InstanceFile:
    """Writes `instances.csv` field by field, under a temporary name until it is complete; a context manager.

    Where no instance has a class, there is no file.

    Parameters
    ----------
    root : Path
        The data folder.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / INSTANCES
        self._temporary = root / f".{secrets.token_hex(8)}.tmp"
        self._handle: IO[str] | None = None
        self._writer: Any = None

    def __enter__(self) -> "InstanceFile":
        return self

    def add(self, id: str, classes: Classes) -> None:
        """Write the rows of a field, by kind and label.

        Raises
        ------
        MsdmError
            The file cannot be written.
        """
        rows = _rows(id, classes)
        try:
            if rows and self._handle is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._handle = open(self._temporary, "w", encoding="utf-8", newline="")  # noqa: SIM115
                self._writer = csv.writer(self._handle, lineterminator="\n")
                self._writer.writerow(COLUMNS)
            if rows:
                self._writer.writerows(rows)
        except OSError as error:
            raise MsdmError(f"cannot write {self._path}: {error}; check the space on the disc") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is None:
            return
        try:
            if kind is None:
                self._handle.flush()
                os.fsync(self._handle.fileno())
            self._handle.close()
            if kind is None:
                os.replace(self._temporary, self._path)
        except OSError as failed:
            raise MsdmError(f"cannot write {self._path}: {failed}; check the space on the disc") from failed
        finally:
            with suppress(OSError):  # as `atomic_write`
                os.unlink(self._temporary)


class InstanceJournal:
    """Rows of `instances.csv` that come field by field, each through to the disc before `add` ends.

    Parameters
    ----------
    path : Path
        A file that is there is gone on with. Where no instance has a class, there is no file.
    """

    def __init__(self, path: Path) -> None:
        self._file = GrowingCsv(path, COLUMNS)

    def close(self) -> None:
        """End; nothing can be added any more."""
        self._file.close()

    def add(self, id: str, classes: Classes) -> None:
        """Write the rows of a field, by kind and label.

        Raises
        ------
        MsdmError
            The file cannot be written.
        """
        if rows := _rows(id, classes):
            self._file.add(rows)


def present(masks: Mapping[str, Labels], classes: Classes) -> dict[str, dict[int, str]]:
    """The classes of those labels that are in the masks; a kind without any is left out."""
    found: dict[str, dict[int, str]] = {}
    for kind, labels in masks.items():
        if named := classes.get(kind):
            there = set(np.unique(labels).tolist())
            if kept := {label: name for label, name in named.items() if label in there}:
                found[kind] = kept
    return found


def classes_hash(classes: Classes) -> str:
    """SHA-256 of the classes of a field, in hexadecimal; empty where it has none."""
    rows = _rows("", classes)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest() if rows else ""


def _rows(id: str, classes: Classes) -> list[Sequence[object]]:
    return [
        (id, kind, label, classes[kind][label]) for kind in sorted(classes) for label in sorted(classes[kind])
    ]
