"""The import job: recognise a format, read its fields one by one, and write them in the documented layout."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

from ..core.errors import MsdmError
from ..core.fields import MANIFEST, mask_folder
from ..core.manifest import write_manifest
from .host import Host, get_host
from .importers.archive import open_zip
from .importers.base import ForeignField, Importer
from .importers.rows import manifest_rows, unique_ids
from .importers.source import Source
from .importers.writing import Written, write_field
from .instances import InstanceFile
from .new_folder import check_new, new_folder
from .parallel import default_workers, ordered_map

AUTO = "auto"
Job = tuple[str, ForeignField]


@dataclass(frozen=True)
class Detected:
    """The format is known, and how many fields there are."""

    format: str
    fields: int


@dataclass(frozen=True)
class Transferred:
    """`done` of `total` fields are written."""

    done: int
    total: int


Listener = Callable[[Detected | Transferred], None]


@dataclass
class Imported:
    """What an import did.

    Attributes
    ----------
    folder : Path
    format : str
    fields : int
        Written.
    instances : dict of kind -> (int, int)
        Fields with a mask of the kind, and instances in them.
    classes : set of str
    empty : list of str
        Ids of fields without any instance; they were left out.
    lost : int
        Instances without a pixel; see `Content`.
    without_image : list of str
        Ids of fields of which the masks alone were written.
    """

    folder: Path
    format: str
    fields: int = 0
    instances: dict[str, tuple[int, int]] = field(default_factory=dict)
    classes: set[str] = field(default_factory=set)
    empty: list[str] = field(default_factory=list)
    lost: int = 0
    without_image: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What the user should know, one line each."""
        notes = []
        if self.without_image:
            notes.append(
                f"no picture of {_first(self.without_image)}: masks alone were written, and training needs "
                "both; "
                f"see --images"
            )
        for kind, (fields, _) in sorted(self.instances.items()):
            if fields < self.fields:
                notes.append(
                    f"{fields} of {self.fields} fields have a {kind} mask; a recipe that reads it needs all"
                )
        if self.empty:
            notes.append(f"{_first(self.empty)} left out: no instance")
        if self.lost:
            notes.append(
                f"{self.lost} instances left out: no pixel's centre in them, or covered by later ones"
            )
        return notes


def import_data(
    source: str | Path,
    out: str | Path,
    *,
    format: str = AUTO,
    metadata: str | Path | None = None,
    columns: Sequence[str] = (),
    split: str | None = None,
    images: str | Path | None = None,
    kind: str = "nucleus",
    allow_pickle: bool = False,
    workers: int | None = None,
    listener: Listener = lambda event: None,
    host: Host | None = None,
) -> Imported:
    """Write the fields of a file or folder of another tool as a data set in the documented layout.

    Parameters
    ----------
    source : path
    out : path
        A folder that does not exist yet, or is empty. It appears when it is complete.
    format : str
        An importer by name; ``auto`` recognises it.
    metadata : path or None
        CSV with a column ``id`` and a row for every field.
    columns : sequence of str
        ``OLD=NEW``: columns to rename.
    split : str or None
        The split of every field.
    images : path or None
        Where the pictures are, if not with the annotations.
    kind : str
        The mask kind of instances whose kind the format does not say.
    allow_pickle : bool
        Read Cellpose's `_seg.npy`.
    workers : int or None
        Processes that read and write; None takes one for few fields and all cores for many.
    listener : callable
        Called with every event.
    host : Host or None

    Returns
    -------
    Imported

    Raises
    ------
    MsdmError
        Anything is wrong with the files or the options; nothing is left in `out` then.
    """
    source, folder = Path(source), Path(out)
    _check_folders(source, folder)
    mask_folder(kind)
    files = Source(source, Path(images) if images is not None else None, allow_pickle, kind)
    host = host or get_host()
    name = detect_format(files, host) if format == AUTO else format
    importer: Importer = host.load("importer", name)()
    fields = list(importer.fields(files))
    if not fields:
        raise MsdmError(
            f"{source} has no field of format {name}: {importer.looks_for}; name the right folder or --format"
        )
    ids = unique_ids(fields)
    path = Path(metadata) if metadata is not None else None
    rows = manifest_rows(fields, ids, metadata=path, columns=columns, split=split)
    listener(Detected(name, len(fields)))

    with new_folder(folder) as temporary:
        jobs = list(zip(ids, fields, strict=True))
        imported = Imported(folder, name)
        kept = []
        with InstanceFile(temporary) as instances:
            for k, written in enumerate(_transfer(temporary, jobs, importer, workers)):
                if _count(imported, ids[k], written):
                    kept.append(rows[k])
                    instances.add(ids[k], written.classes)
                listener(Transferred(k + 1, len(jobs)))
        if not kept:
            raise MsdmError(
                f"none of the {len(jobs)} fields of {source} has an instance; is it the right folder?"
            )
        write_manifest(temporary / MANIFEST, kept)
    return imported


def detect_format(source: Source, host: Host) -> str:
    """The name of the one importer that recognises the files.

    Raises
    ------
    MsdmError
        None does, or several do.
    """
    importers: dict[str, Importer] = {name: host.load("importer", name)() for name in host.names("importer")}
    found = [name for name, importer in importers.items() if importer.detect(source)]
    if len(found) == 1:
        return found[0]
    if found:
        raise MsdmError(
            f"{source.path} looks like {' and '.join(found)}; choose with --format, or import its folders "
            "one by one"
        )
    for path in source.glance:
        if path.suffix.lower() == ".zip":
            open_zip(path).close()  # one that is damaged says so
    what = "is empty" if not source.glance else "is of no format that is known"
    wanted = "; ".join(f"{name}: {importer.looks_for}" for name, importer in importers.items())
    raise MsdmError(f"{source.path} {what}; looked for {wanted}")


def _check_folders(source: Path, out: Path) -> None:
    if not source.exists():
        raise MsdmError(f"{source} is missing; name the file or folder to import")
    check_new(out)
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise MsdmError(f"{out} lies in {source}, which is imported; choose a folder elsewhere")


def _transfer(
    folder: Path, jobs: Sequence[Job], importer: Importer, workers: int | None
) -> Iterator[Written]:
    """Read and write every field, in order."""
    if importer.in_order:
        yield from _read_here(folder, jobs)
        return
    workers = default_workers(len(jobs)) if workers is None else workers
    try:
        ForkingPickler.dumps(jobs[0])
    except Exception:  # what a field holds that cannot be sent to a process is its author's choice
        workers = 1
    yield from ordered_map(partial(_transfer_one, folder), jobs, workers)


def _transfer_one(folder: Path, job: Job) -> Written:
    id, foreign = job
    return write_field(folder, id, foreign.read(), foreign.source)


def _read_here(folder: Path, jobs: Sequence[Job]) -> Iterator[Written]:
    """Read in this thread, in order; write in several: encoding releases the interpreter's lock."""
    workers = min(8, os.cpu_count() or 1)
    under_way: deque[Future[Written]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for id, foreign in jobs:
                under_way.append(pool.submit(write_field, folder, id, foreign.read(), foreign.source))
                if len(under_way) > workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _count(imported: Imported, id: str, written: Written) -> bool:
    """Add a field to the sums; whether it was written."""
    imported.lost += written.lost
    if not written.instances:
        imported.empty.append(id)
        return False
    if not written.image:
        imported.without_image.append(id)
    imported.fields += 1
    for kind, count in written.instances.items():
        fields, instances = imported.instances.get(kind, (0, 0))
        imported.instances[kind] = (fields + 1, instances + count)
    for names in written.classes.values():
        imported.classes.update(names.values())
    return True


def _first(ids: Sequence[str]) -> str:
    return f"{ids[0]} and {len(ids) - 1} more" if len(ids) > 1 else ids[0]
