"""Manifest rows of imported fields: ids that can name files, and metadata from elsewhere."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from ...core.errors import MsdmError, did_you_mean
from ...core.fields import without_hashes
from ...core.manifest import read_manifest
from .base import ForeignField

SOURCE = "source"
"""The column that says which file a field came from."""
_SHOWN = 5


def unique_ids(fields: Sequence[ForeignField]) -> list[str]:
    """Ids that can name files, each once.

    Characters that no id may have become ``_``. Fields that share an id get the names of their folders in
    front: ``Train_1`` and ``Test_1``.

    Raises
    ------
    MsdmError
        Two fields of one folder have the same id.
    """
    ids = [_legal(field.id) for field in fields]
    count = Counter(ids)
    for k, field in enumerate(fields):
        if count[ids[k]] > 1:
            folders = PurePosixPath(field.source.partition(": ")[0]).parent.parts
            ids[k] = _legal("_".join((*folders, ids[k])))
    seen: dict[str, ForeignField] = {}
    for id, field in zip(ids, fields, strict=True):
        if id in seen:
            raise MsdmError(
                f"{seen[id].source} and {field.source} would both be the field {id!r}; rename one, or import "
                f"them one by one"
            )
        seen[id] = field
    return ids


def manifest_rows(
    fields: Sequence[ForeignField],
    ids: Sequence[str],
    *,
    metadata: Path | None = None,
    columns: Iterable[str] = (),
    split: str | None = None,
) -> list[dict[str, str]]:
    """A row per field: id, split, what the format says, what `metadata` says, and the file it came from.

    Parameters
    ----------
    fields, ids : sequence
        Of one length.
    metadata : Path or None
        CSV with a column ``id``. Its values win over those of the format.
    columns : iterable of str
        ``OLD=NEW``: columns to rename, wherever they come from.
    split : str or None
        The value of ``split`` of every row; it wins.

    Raises
    ------
    MsdmError
        An id of `metadata` is of no field, or the other way round; a column to rename is not there, or its
        new name is taken.
    """
    more = _merge(metadata, ids) if metadata is not None else {}
    rows = []
    for field, id in zip(fields, ids, strict=True):
        row = without_hashes({SOURCE: field.source, **field.metadata, **more.get(id, {})})
        rows.append({"id": id, **{name: row[name] for name in (*(n for n in row if n != SOURCE), SOURCE)}})
    _rename(rows, columns)
    if split is not None:
        rows = [
            {"id": row.pop("id"), "split": split, **{k: v for k, v in row.items() if k != "split"}}
            for row in rows
        ]
    return rows


def _merge(path: Path, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    rows = {row.pop("id"): row for row in read_manifest(path)}
    here = set(ids)
    unknown = [id for id in rows if id not in here]
    if unknown:
        raise MsdmError(
            f"{path} has rows of {_some(unknown)}, and no fields of that name are here; ids here are such as "
            f"{ids[0]!r}: mend the ids, or delete those rows"
        )
    without = [id for id in ids if id not in rows]
    if without:
        raise MsdmError(f"{path} has no row for {_some(without)}; add one for every field")
    return rows


def _rename(rows: Sequence[dict[str, str]], columns: Iterable[str]) -> None:
    there = dict.fromkeys(name for row in rows for name in row)
    names: dict[str, str] = {}
    for text in columns:
        old, _, new = text.partition("=")
        if not old or not new or "id" in (old, new) or old in names:
            raise MsdmError(f"--column {text!r}: write OLD=NEW, each column once, and neither of them id")
        if old not in there:
            raise MsdmError(f"--column {text!r}: no column {old!r}; {did_you_mean(old, there)}")
        names[old] = new
    after = [names.get(name, name) for name in there]
    for name in after:
        if after.count(name) > 1:
            raise MsdmError(
                f"--column: two columns would be called {name!r}; rename or leave out one of them"
            )
    for row in rows if names else ():
        renamed = {names.get(name, name): value for name, value in row.items()}
        row.clear()
        row.update(renamed)


def _legal(id: str) -> str:
    """An id that the manifest takes (core/manifest.py)."""
    text = re.sub(r"[^\w .-]", "_", id)
    text = re.sub(r"\.{2,}", "_", text).strip(" ").rstrip(".")
    return re.sub(r"^[. ]+", "_", text) or "_"


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return f"{', '.join(map(repr, ids[:_SHOWN]))}{more}"
