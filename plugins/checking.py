"""The check of a data set: every finding about its files, its instances and its manifest."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ..core.errors import MsdmError
from ..core.fields import IMAGES, MANIFEST, Progress, mask_kinds
from ..core.manifest import read_manifest
from .checks.duplicates import duplicate_findings
from .checks.field import check_field
from .checks.finding import KINDS, Finding
from .checks.hashes import classes_findings
from .checks.images import STAINS, Fingerprint
from .checks.instances import SPECK
from .checks.manifest import column_findings, group_leak_findings, job_findings, unlisted_findings
from .checks.stains import stain_findings
from .parallel import ordered_map

SHOWN = 20
"""Findings of a kind that a `Report` keeps; a sink gets all."""
Sink = Callable[[Finding], None]


@dataclass
class Report:
    """What a check found.

    Attributes
    ----------
    fields : int
        Rows of the manifest.
    counts : Counter of kind -> int
    first : dict of kind -> list of Finding
        The first `SHOWN` of each kind.
    """

    fields: int
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[Finding]] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it while there are few of its kind."""
        self.counts[finding.kind] += 1
        kept = self.first.setdefault(finding.kind, [])
        if len(kept) < SHOWN:
            kept.append(finding)

    def count(self, severity: str) -> int:
        """Findings of a severity."""
        return sum(n for kind, n in self.counts.items() if KINDS[kind].severity == severity)

    @property
    def errors(self) -> int:
        return self.count("error")

    @property
    def warnings(self) -> int:
        return self.count("warning")

    @property
    def kinds(self) -> list[str]:
        """Kinds that were found, in the order of `KINDS`."""
        return [kind for kind in KINDS if self.counts[kind]]


def check(
    root: str | Path,
    *,
    speck: int = SPECK,
    workers: int | None = 1,
    on_progress: Progress | None = None,
    sink: Sink = lambda finding: None,
) -> Report:
    """Check a data folder.

    Fields are read one by one, in processes; of each less than 1 kB is kept.

    Parameters
    ----------
    root : path
        A folder in the documented layout.
    speck : int
        Instances of fewer pixels are specks.
    workers : int or None
        Processes; None takes all cores where there are many fields.
    on_progress : callable (done, total) or None
        Called first with (0, total), then after each field.
    sink : callable (Finding) -> None
        Gets every finding as it is found.

    Returns
    -------
    Report

    Raises
    ------
    MsdmError
        The folder or its manifest cannot be read: nothing can be looked up without it.
    """
    root = Path(root)
    rows, kinds = open_data(root)
    report = Report(len(rows))

    def found(findings: Iterator[Finding] | Sequence[Finding]) -> None:
        for finding in findings:
            report.add(finding)
            sink(finding)

    ids = [row["id"] for row in rows]
    found(job_findings(root))
    found(column_findings(rows))
    found(group_leak_findings(rows))
    found(unlisted_findings(root, kinds, frozenset(ids)))
    found(classes_findings(root, rows))
    files: list[str] = []
    prints: list[Fingerprint] = []
    splits: list[str | None] = []
    assays: list[str] = []
    reports = ordered_map(partial(check_field, root, kinds, speck), rows, workers, on_progress)
    for row, about in zip(rows, reports, strict=True):
        found(about.findings)
        if about.print is not None:
            files.append(about.image)
            prints.append(about.print)
            splits.append(row.get("split"))
            assays.append(row.get("assay", ""))
    found(duplicate_findings(files, prints, splits))
    found(stain_findings(files, np.array([p.stain for p in prints]).reshape(-1, len(STAINS)), assays))
    return report


def open_data(root: Path, *, images: bool = True) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    """The manifest's rows and the mask kinds of a data folder.

    Parameters
    ----------
    root : Path
    images : bool
        Whether there must be images.

    Raises
    ------
    MsdmError
        The folder, its manifest or (where it is wanted) `images/` is missing or wrong, or no mask folder is
        there.
    """
    if not root.is_dir():
        raise MsdmError(f"folder {root} is missing; give one that holds {MANIFEST} and {IMAGES}/")
    rows = read_manifest(root / MANIFEST)
    if images and not (root / IMAGES).is_dir():
        raise MsdmError(f"folder {root / IMAGES} is missing; a data set has {MANIFEST}, {IMAGES}/ and masks")
    kinds = mask_kinds(root)
    if not kinds:
        raise MsdmError(
            f"{root} has no folder of masks; a data set has nuclei/, cells/ or another beside images/"
        )
    return rows, kinds
