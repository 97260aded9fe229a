"""The fields of a fidelity measurement: data sets with the masks that all fields have, in a fixed order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.dataset import FieldDataset
from ...core.fields import MANIFEST, has_file, mask_folder, mask_kinds
from ...core.manifest import read_manifest, select_split
from ...core.sample import Sample
from ..embedders.fields import Fields

Progress = Callable[[str, int, int], None]

KINDS = ("nucleus", "cell")
"""Masks that adherence is measured on, the first that all fields have."""
BUDGET = 2**30
"""Bytes of decoded pixels that are kept of a set."""


@dataclass(frozen=True)
class Sets:
    """The sets of a measurement.

    Attributes
    ----------
    real, synthetic : FieldDataset
        What is compared.
    reference : FieldDataset
        Real fields that copies are looked for in: `real` is a part of it, or it is another set.
    """

    real: FieldDataset
    synthetic: FieldDataset
    reference: FieldDataset


def open_sets(
    real: Path,
    synthetic: Path,
    *,
    split: str | None = None,
    reference: Path | None = None,
    on_progress: Progress | None = None,
) -> Sets:
    """Open and check data folders.

    Parameters
    ----------
    real, synthetic : Path
    split : str or None
        Of the real fields that are compared; copies are looked for in all of them.
    reference : Path or None
        Look for copies in this set, and not in `real`.
    on_progress : callable (stage, done, total) or None

    Raises
    ------
    MsdmError
        A folder, its manifest or a file is wrong, or there is no such split.
    """
    roots = [real, synthetic, *([] if reference is None else [reference])]
    kinds = next(([kind] for kind in KINDS if all(_has_all(root, kind) for root in roots)), [])
    opened = [_open(root, kinds, f"reading {root.name or root}", on_progress) for root in roots]
    whole = opened[0]
    chosen = select_split(whole.rows, split, real / MANIFEST)
    compared = whole if len(chosen) == len(whole) else whole.subset([row["id"] for row in chosen])
    return Sets(compared, opened[1], whole if reference is None else opened[2])


def _has_all(root: Path, kind: str) -> bool:
    """Whether every field has a mask of a kind; of a folder that is wrong, opening it says so."""
    if not root.is_dir() or not (root / MANIFEST).is_file() or kind not in mask_kinds(root):
        return False
    return all(has_file(root / mask_folder(kind), row["id"]) for row in read_manifest(root / MANIFEST))


def _open(root: Path, kinds: Sequence[str], what: str, on_progress: Progress | None) -> FieldDataset:
    def progress(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(what, done, total)

    return FieldDataset(root, masks=kinds, budget=BUDGET, on_progress=progress)


class ById:
    """Fields in the order of their ids, so that what is drawn at random does not depend on how they lie.

    Parameters
    ----------
    fields : FieldDataset, or sequence of Sample

    Attributes
    ----------
    rows : list of mapping
        The manifest: ``id`` and the metadata of each.
    kinds : frozenset of str
        Mask kinds that every field has.
    """

    def __init__(self, fields: Fields) -> None:
        rows: Any = getattr(fields, "rows", None)
        kinds: Any = getattr(fields, "kinds", None)
        if rows is None or kinds is None:  # not a data set, whose manifest says it without decoding a field
            samples = [fields[i] for i in range(len(fields))]
            rows = [{**sample.metadata, "id": sample.id} for sample in samples]
            kinds = set.intersection(*(set(sample.masks) for sample in samples)) if samples else ()
        self._fields = fields
        self._order = sorted(range(len(fields)), key=lambda i: str(rows[i]["id"]))
        self.rows: list[Mapping[str, str]] = [rows[i] for i in self._order]
        self.kinds: frozenset[str] = frozenset(kinds)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, i: int) -> Sample:
        return self._fields[self._order[i]]
