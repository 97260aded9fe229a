"""Findings about files that are not the ones that were written, by the hashes in the manifest."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from ...core.errors import MsdmError
from ...core.fields import CLASSES_HASH, HASHES, IMAGES, can_name_folder
from ...core.files import file_hash
from ...core.images import SUFFIXES
from ..instance_index import InstanceIndex
from ..instances import INSTANCES, classes_hash
from .finding import Finding

Row = Mapping[str, str]
_SHOWN = 12
"""Digits of a hash in a finding."""


def hash_findings(root: Path, row: Row) -> Iterator[Finding]:
    """Files of a field that are not those that its row has the SHA-256 of."""
    for column, wanted in row.items():
        folder = column.removeprefix(HASHES)
        # the column's name is anyone's: it must not lead out of the data folder
        if not column.startswith(HASHES) or not wanted or not can_name_folder(folder):
            continue
        names = [f"{folder}/{row['id']}{suffix}" for suffix in SUFFIXES]
        there = [name for name in names if (root / name).is_file()]
        if not there and folder != IMAGES:  # of an image that is not there, another finding says so
            yield Finding("changed-file", names[0], "", "not there, and the row has its SHA-256")
        for name in there:
            try:
                found = file_hash(root / name)
            except OSError as error:
                found = error.strerror or "cannot be read"
            if found != wanted:
                yield Finding("changed-file", name, "", _differ(found, wanted))


def classes_findings(root: Path, rows: list[dict[str, str]]) -> Iterator[Finding]:
    """Fields whose classes of instances are not those that their rows have the SHA-256 of."""
    if CLASSES_HASH not in rows[0]:
        return
    try:
        classes = InstanceIndex(root, [row["id"] for row in rows])
    except MsdmError as error:
        yield Finding("damaged-file", INSTANCES, "", str(error).replace(str(root / INSTANCES), "it"))
        return
    for row in rows:
        found, wanted = classes_hash(classes.of(row["id"])), row[CLASSES_HASH]
        if found != wanted:
            value = f"rows of {row['id']!r:.210}: {_differ(found or 'none', wanted or 'none')}"
            yield Finding("changed-file", INSTANCES, "", value)


def _differ(found: str, wanted: str) -> str:
    return f"SHA-256 {found[:_SHOWN]}, and {wanted[:_SHOWN]} in the row"
