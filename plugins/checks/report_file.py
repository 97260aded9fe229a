"""The whole list of findings in a file."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import MsdmError
from ...core.files import atomic_write
from .finding import Finding

SUFFIXES = (".json", ".csv")


@contextmanager
def finding_file(path: str | Path) -> Iterator[Callable[[Finding], None]]:
    """Write findings as they come: a JSON array of objects, or CSV with a row each, by the suffix.

    Both have the keys of `Finding.record`. The file takes its name when it is complete.

    Parameters
    ----------
    path : path
        Ends in ``.json`` or ``.csv``.

    Yields
    ------
    callable (Finding) -> None

    Raises
    ------
    MsdmError
        It ends otherwise, or cannot be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise MsdmError(f"{path} ends in {path.suffix or 'nothing'!r}; findings are written to .json or .csv")
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        if path.suffix == ".json":
            count = 0

            def add(finding: Finding) -> None:
                nonlocal count
                handle.write(",\n  " if count else "\n  ")
                handle.write(json.dumps(finding.record(), ensure_ascii=False))
                count += 1

            handle.write("[")
            yield add
            handle.write("\n]\n")
            return
        writer = csv.DictWriter(handle, list(Finding("speck", "", "", "").record()), lineterminator="\n")
        writer.writeheader()

        def write(finding: Finding) -> None:
            writer.writerow(finding.record())

        yield write
