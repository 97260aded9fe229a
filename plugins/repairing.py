"""Repairs of a data set, into a copy: what `msdm-kit data check --fix` does."""

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..core.errors import MsdmError
from ..core.fields import MANIFEST, Progress, without_hashes
from ..core.manifest import write_manifest
from .checking import open_data
from .checks.instances import SPECK
from .checks.repairs import Repaired, repair_field
from .instances import InstanceFile, read_instances
from .new_folder import check_new, new_folder
from .parallel import ordered_map

LOG = "changes.csv"
COLUMNS = ("id", "file", "instance", "change", "value")


@dataclass
class Repair:
    """What a repair did.

    Attributes
    ----------
    folder : Path
    fields : int
        Written.
    left_out : int
        Fields that cannot be repaired.
    changes : Counter of change -> int
        By kind; all are in ``changes.csv`` of the folder.
    """

    folder: Path
    fields: int = 0
    left_out: int = 0
    changes: Counter[str] = field(default_factory=Counter)


def repair(
    root: str | Path,
    out: str | Path,
    *,
    speck: int = SPECK,
    workers: int | None = 1,
    on_progress: Progress | None = None,
) -> Repair:
    """Write a repaired copy of a data folder, and a log of every change.

    Each field is repaired by `repair_field`; one that cannot be is left out. Images that are there twice and
    leaks between splits are kept: which field to give up is not to be guessed. The source is only read.

    Parameters
    ----------
    root, out : path
        `out` is new or empty. Its ``changes.csv`` has a row per change: id, file, instance, change, value.
    speck : int
        Instances of fewer pixels are dropped.
    workers : int or None
        Processes; None takes all cores where there are many fields.
    on_progress : callable (done, total) or None

    Raises
    ------
    MsdmError
        The source's manifest or `instances.csv` is wrong, no field is left, or the copy cannot be written;
        nothing is left in `out` then.
    """
    root, folder = Path(root), Path(out)
    rows, kinds = open_data(root)
    check_new(folder, root)
    classes = read_instances(root)
    done = Repair(folder)
    kept = []
    jobs = [row["id"] for row in rows]
    with new_folder(folder) as temporary:
        repair_one = partial(repair_field, root, temporary, kinds, speck)
        results = ordered_map(repair_one, jobs, workers, on_progress)
        with (
            InstanceFile(temporary) as instances,
            open(temporary / LOG, "w", encoding="utf-8", newline="") as handle,
        ):
            log = csv.writer(handle, lineterminator="\n")
            log.writerow(COLUMNS)
            for row, result in zip(rows, results, strict=True):
                for change in result.changes:
                    done.changes[change.change] += 1
                    log.writerow((row["id"], change.file, change.instance, change.change, change.value))
                if result.kept:
                    kept.append(without_hashes(row))
                    instances.add(row["id"], _classes(classes.get(row["id"], {}), result))
        if not kept:
            raise MsdmError(f"no field of {root} can be repaired; see what msdm-kit data check finds")
        write_manifest(temporary / MANIFEST, kept)
    done.fields, done.left_out = len(kept), len(rows) - len(kept)
    return done


def _classes(old: Mapping[str, Mapping[int, str]], result: Repaired) -> dict[str, dict[int, str]]:
    """Classes by the labels that were written: a piece has the class of what it was a piece of."""
    found: dict[str, dict[int, str]] = {}
    for kind, origins in result.origins.items():
        named = old.get(kind, {})
        found[kind] = {label: named[origin] for label, origin in origins.items() if origin in named}
    return found
