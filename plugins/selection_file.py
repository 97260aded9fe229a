"""The file that a selection is kept in.

``fields.csv`` has the ids and the properties that were named, in the form of a data set's manifest. Beside it
lies ``fields.selection.json``: of which data it is (a hash of their manifest) and how it was made. The CSV
alone is a selection too, such as a list of ids written by hand; with the JSON beside it, the data must be the
same.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from ..core.errors import MsdmError
from ..core.fields import MANIFEST
from ..core.files import write_text
from ..core.manifest import read_manifest, write_manifest
from ..core.reading import parse_json, read_text
from .selection import Selection

FORMAT = "msdm-kit selection 1"


def save_selection(selection: Selection, path: str | Path) -> Path:
    """Write a selection: a CSV file, and a JSON file beside it.

    Parameters
    ----------
    selection : Selection
    path : path
        Ends in ``.csv``.

    Returns
    -------
    Path
        Of the JSON file.

    Raises
    ------
    MsdmError
        No field was chosen, or the name or the folder will not do.
    """
    path = Path(path)
    check_target(path)
    if not selection.chosen:
        raise MsdmError(
            f"no field matches, so {path} is not written; ease --where (all values are in the table)"
        )
    rows = [
        {
            "id": selection.ids[i],
            **{name: _text(found[i]) for name, found in selection.values.items() if name != "id"},
        }
        for i in selection.chosen
    ]
    write_manifest(path, rows)
    facts = {
        "format": FORMAT,
        "data": str(selection.root.resolve()),
        "manifest_sha256": _hash(selection.root / MANIFEST),
        "where": selection.where,
        "split": selection.split,
        "sort": selection.sort,
        "asked": len(selection.ids),
        "matching": selection.matching,
        "selected": len(selection.chosen),
        "csv_sha256": _hash(path),
    }
    write_text(companion(path), json.dumps(facts, indent=2) + "\n")
    return companion(path)


def load_selection(path: str | Path, root: str | Path) -> tuple[list[str], list[str]]:
    """The ids of a selection, and what there is to say of it.

    Parameters
    ----------
    path : path
        A CSV file with a column ``id``.
    root : path
        The data folder that is to be used with it.

    Returns
    -------
    ids : list of str
        In the file's order, all of them in the data's manifest.
    notes : list of str

    Raises
    ------
    MsdmError
        The file is wrong, it was made of another manifest, or an id is not in the data.
    """
    path, root = Path(path), Path(root)
    ids = [row["id"] for row in read_manifest(path)]
    manifest = root / MANIFEST
    notes = []
    facts = _facts(companion(path))
    if facts is None:
        notes.append(
            f"{path.with_suffix('.json')} is not there: whether {path} is of these data is not known"
        )
    else:
        if facts.get("manifest_sha256") != _hash(manifest):
            where = facts.get("where")
            again = f"--where {json.dumps(where)} " if where else ""
            raise MsdmError(
                f"{path} was selected from {facts.get('data')}, and {manifest} is not what it was then; "
                f"select again: msdm-kit data select {root} {again}--out {path}"
            )
        if facts.get("csv_sha256") != _hash(path):
            notes.append(
                f"{path} was changed since it was selected: {len(ids)} of {facts.get('selected')} fields"
            )
    known = {row["id"] for row in read_manifest(manifest)}
    strange = [id for id in ids if id not in known]
    if strange:
        more = f" (+{len(strange) - 1} more)" if len(strange) > 1 else ""
        raise MsdmError(f"{path} names field {strange[0]!r}{more}, which {manifest} has not; select again")
    return ids, notes


def check_target(path: Path) -> None:
    """Check that a selection can be written to a path.

    Raises
    ------
    MsdmError
        It is no CSV file by its name, or a file that no selection made is there.
    """
    if path.suffix != ".csv":
        raise MsdmError(
            f"a selection is a CSV file, and {path} is named otherwise; give a name such as fields.csv"
        )
    if path.exists() and not companion(path).exists():
        raise MsdmError(f"{path} is there and was not made by a selection; choose another --out")


def companion(path: Path) -> Path:
    """The JSON file beside a selection: ``fields.selection.json`` beside ``fields.csv``."""
    return path.with_suffix(".selection.json")


def _facts(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        facts = parse_json(read_text(path))
    except (ValueError, OSError):
        facts = None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise MsdmError(
            f"{path} is not the {FORMAT!r} that lies beside a selection; select again, or remove it"
        )
    return facts


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _text(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else repr(int(value) if value.is_integer() else value)
