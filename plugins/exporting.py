"""The export job: read the fields of a data set one by one, and write them in another tool's format."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import MsdmError, did_you_mean
from ..core.fields import IMAGES, MANIFEST, has_file, locate, mask_folder, mask_kinds, read_field, summary
from ..core.manifest import read_manifest, select_split, write_manifest
from .exporters.base import ExportedField, Exporter, Plan
from .host import Host, get_host
from .importers.reading import picture_size
from .importing import Transferred
from .instance_index import Spans, classes_at, index_instances
from .new_folder import check_new, new_folder
from .parallel import ordered_map
from .selection_file import load_selection

FIELDS = "fields.csv"
"""The manifest's rows of what was exported. Not `metadata.csv`: that name means the native layout."""
FIELD = "field"
"""The column of `fields.csv` with the id in the data, where the format has a name of its own for a field."""


@dataclass(frozen=True)
class Planned:
    """What is exported is known."""

    format: str
    kinds: tuple[str, ...]
    fields: int


Listener = Callable[[Planned | Transferred], None]


@dataclass
class Exported:
    """What an export did.

    Attributes
    ----------
    folder : Path
    format : str
    fields : int
        Written.
    instances : dict of kind -> int
    classes : int
        Their number.
    notes : list of str
        What the user should know, one line each.
    """

    folder: Path
    format: str
    fields: int = 0
    instances: dict[str, int] = field(default_factory=dict)
    classes: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    index: int
    name: str
    kinds: tuple[str, ...]
    spans: Spans
    row: Mapping[str, str]


def export_data(
    root: str | Path,
    out: str | Path,
    format: str,
    *,
    mask_kind: str | None = None,
    split: str | None = None,
    select: str | Path | None = None,
    workers: int | None = None,
    listener: Listener = lambda event: None,
    host: Host | None = None,
) -> Exported:
    """Write the fields of a data folder in the format of another tool.

    Parameters
    ----------
    root : path
        A data folder; what `msdm-kit sample` writes is one too.
    out : path
        A folder that does not exist yet, or is empty. It appears when it is complete.
    format : str
        An exporter by name.
    mask_kind : str or None
        The only mask kind to export; None takes what the format can hold.
    split : str or None
        Fields of this split only.
    select : path or None
        A file of `msdm-kit data select`: its fields only.
    workers : int or None
        Processes that read and write; None takes one for few fields and all cores for many.
    listener : callable
        Called with every event.
    host : Host or None

    Returns
    -------
    Exported

    Raises
    ------
    MsdmError
        Anything is wrong with the data or the options, or the format cannot express them; nothing is left in
        `out` then.
    """
    root, folder = Path(root), Path(out)
    check_new(folder, root)
    exporter: Exporter = (host or get_host()).load("exporter", format)()
    rows, notes = _rows(root, split, select)
    kinds = _kinds(root, exporter, mask_kind)
    rows, of_row = _with_masks(root, rows, kinds, notes)
    ids = [row["id"] for row in rows]
    spans, classes = index_instances(root, ids, kinds)
    names = _names(exporter, ids)
    size = picture_size(locate(root / IMAGES, ids[0]))
    plan = Plan(kinds, {kind: tuple(sorted(classes.get(kind, ()))) for kind in kinds}, len(ids), size)
    jobs = [_Job(k, names[k], of_row[k], spans.get(id, ()), rows[k]) for k, id in enumerate(ids)]
    listener(Planned(format, kinds, len(jobs)))
    done = Exported(folder, format, classes=len(set().union(*classes.values())), notes=notes)
    with new_folder(folder) as temporary:
        written = _written(root, temporary, exporter, plan, jobs, workers, done, listener)
        notes += exporter.gather(temporary, plan, written)
        write_manifest(temporary / FIELDS, [_listed(job) for job in jobs])
    return done


def _rows(root: Path, split: str | None, select: str | Path | None) -> tuple[list[dict[str, str]], list[str]]:
    """The rows of the fields that are wanted, and notes."""
    rows = select_split(read_manifest(root / MANIFEST), split, root / MANIFEST)
    if select is None:
        return rows, []
    chosen, notes = load_selection(select, root)
    by_id = {row["id"]: row for row in rows}
    rows = [by_id[id] for id in chosen if id in by_id]
    if not rows:
        raise MsdmError(f"{select} has no field of split {split!r}; leave out --split, or select again")
    return rows, notes


def _kinds(root: Path, exporter: Exporter, mask_kind: str | None) -> tuple[str, ...]:
    there = mask_kinds(root)
    if not there:
        raise MsdmError(f"{root} has no folder of masks, such as nuclei or cells; there is nothing to export")
    if mask_kind is None:
        return exporter.kinds(there)
    if mask_kind not in there:
        raise MsdmError(f"{root} has no masks of kind {mask_kind!r}; {did_you_mean(mask_kind, there)}")
    return (mask_kind,)


def _with_masks(
    root: Path, rows: list[dict[str, str]], kinds: Sequence[str], notes: list[str]
) -> tuple[list[dict[str, str]], list[tuple[str, ...]]]:
    """The rows of fields that have a mask of any of the kinds, and which each has; a note on the others."""
    folders = {kind: root / mask_folder(kind) for kind in kinds}
    there = [tuple(kind for kind, at in folders.items() if has_file(at, row["id"])) for row in rows]
    without = [row["id"] for row, found in zip(rows, there, strict=True) if not found]
    if len(without) == len(rows):
        raise MsdmError(
            f"none of the {len(rows)} fields has a mask in {' or '.join(map(str, folders.values()))}"
        )
    if without:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        notes.append(f"{without[0]}{more} left out: no mask of kind {' or '.join(kinds)}")
    kept = [(row, found) for row, found in zip(rows, there, strict=True) if found]
    return [row for row, _ in kept], [found for _, found in kept]


def _names(exporter: Exporter, ids: Sequence[str]) -> list[str]:
    names = exporter.names(ids)
    seen: dict[str, str] = {}
    for id, name in zip(ids, names, strict=True):
        if name in seen:
            raise MsdmError(f"fields {seen[name]!r} and {id!r} would both be called {name!r}; rename one")
        seen[name] = id
    return names


def _written(
    root: Path,
    folder: Path,
    exporter: Exporter,
    plan: Plan,
    jobs: Sequence[_Job],
    workers: int | None,
    done: Exported,
    listener: Listener,
) -> Iterator[Any]:
    """What `Exporter.write` returns of each field; counts what was written on the way."""
    for counts, piece in ordered_map(partial(_write_one, root, folder, exporter, plan), jobs, workers):
        done.fields += 1
        for kind, count in counts.items():
            done.instances[kind] = done.instances.get(kind, 0) + count
        listener(Transferred(done.fields, len(jobs)))
        yield piece


def _write_one(
    root: Path, folder: Path, exporter: Exporter, plan: Plan, job: _Job
) -> tuple[dict[str, int], Any]:
    exported = read_exported(root, job.index, job.name, job.kinds, job.spans, job.row)
    try:
        piece = exporter.write(folder, plan, exported)
    except OSError as error:
        raise MsdmError(f"cannot write {job.name}: {error}; check the space on the disc") from error
    return {kind: int(labels.max()) for kind, labels in exported.masks.items()}, piece


def read_exported(
    root: Path, index: int, name: str, kinds: Sequence[str], spans: Spans, row: Mapping[str, str]
) -> ExportedField:
    """A field as exporters get it: labels renumbered 1..n in the order of the old ones, kind by kind.

    Raises
    ------
    MsdmError
        A file of it is missing or wrong.
    """
    raw, problems = read_field(root, row["id"], kinds)
    if raw is None or raw.image is None:
        raise MsdmError(summary(problems))
    named = classes_at(root, row["id"], spans)
    masks, classes = {}, {}
    for kind, mask in raw.masks.items():
        counts = np.bincount(mask.ravel())
        counts[0] = 0
        present = np.flatnonzero(counts)
        numbers = np.zeros(len(counts), np.uint16)
        numbers[present] = np.arange(1, len(present) + 1)
        masks[kind] = numbers[mask]
        of = named.get(kind, {})
        classes[kind] = {k: of[label] for k, label in enumerate(present.tolist(), 1) if label in of}
    path = locate(root / IMAGES, row["id"])
    return ExportedField(index, name, raw.image, path, masks, classes, row)


def _listed(job: _Job) -> dict[str, str]:
    if job.name == job.row["id"]:
        return dict(job.row)
    return {
        "id": job.name,
        FIELD: job.row["id"],
        **{k: v for k, v in job.row.items() if k not in ("id", FIELD)},
    }
