"""Choosing fields by their properties."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import MsdmError
from ..core.fields import MANIFEST, Progress, mask_kinds
from ..core.manifest import read_manifest, select_split
from .expressions import condition, names_classes, number
from .instance_index import Spans, classes_at, index_instances
from .parallel import ordered_map
from .properties import Field
from .terms import Node
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class Selection:
    """Fields that were chosen.

    Attributes
    ----------
    root : Path
        The data folder.
    where : str or None
        The expression; None chose all.
    split, sort : str or None
    ids : list of str
        Of all fields that were asked, in the manifest's order.
    values : dict of name -> list
        What the expressions name, of each of `ids`: float, NaN where it is missing, or str.
    chosen : list of int
        Positions in `ids`, in the order of the selection.
    matching : int
        How many match; `limit` may have left some of them out.
    missing : int
        Fields in which a missing value made a comparison false.
    notes : tuple of str
    """

    root: Path
    where: str | None
    split: str | None
    sort: str | None
    ids: list[str]
    values: dict[str, list[float | str]]
    chosen: list[int]
    matching: int
    missing: int
    notes: tuple[str, ...] = ()

    @property
    def chosen_ids(self) -> list[str]:
        return [self.ids[i] for i in self.chosen]


@dataclass(frozen=True)
class _Job:
    """What every field is asked; sent to the worker processes."""

    root: Path
    where: Node | None
    sort: Node | None
    terms: tuple[Node, ...]


def select(
    root: str | Path,
    where: str | None = None,
    *,
    split: str | None = None,
    sort: str | None = None,
    limit: int | None = None,
    workers: int | None = 1,
    on_progress: Progress | None = None,
) -> Selection:
    """Choose the fields of a data folder for which an expression is true.

    Only what the expressions name is measured; where they name columns alone, no mask is read.

    Parameters
    ----------
    root : path
        A folder in the documented layout.
    where : str or None
        A condition, see `msdm_kit.plugins.expressions`; None takes every field.
    split : str or None
        Ask the rows of one split only.
    sort : str or None
        A number: largest first, a missing one last, ties in the manifest's order. None keeps that order.
    limit : int or None
        Take so many of those that match, the first after sorting.
    workers : int or None
        Processes; None takes all cores where there are many fields.
    on_progress : callable (done, total) or None
        Called first with (0, total), then after each field.

    Raises
    ------
    MsdmError
        The folder or an expression is wrong, or a file that is named by one is missing or damaged.
    """
    root = Path(root)
    if limit is not None and limit < 1:
        raise MsdmError(f"limit {limit} takes no fields; give at least 1")
    rows = _rows(root, split)
    kinds, ids = mask_kinds(root), [row["id"] for row in rows]
    asked = names_classes(where) or names_classes(sort)
    spans, classes = index_instances(root, ids, kinds) if asked else ({}, {})
    vocabulary = Vocabulary.of(rows, kinds, classes)
    test = condition(where, vocabulary) if where is not None else None
    order = number(sort, vocabulary) if sort is not None else None
    named = {term.label: term for node in (test, order) if node is not None for term in node.named()}
    job = _Job(root, test, order, tuple(named.values()))
    values: dict[str, list[float | str]] = {label: [] for label in named}
    matches: list[int] = []
    orders: list[float] = []
    missing = 0
    fields = [(row, spans.get(row["id"], ())) for row in rows]
    answers = ordered_map(partial(_ask, job), fields, workers, on_progress)
    for i, (true, lacks, place, found) in enumerate(answers):
        missing += lacks
        orders.append(place)
        if true:
            matches.append(i)
        for label, value in zip(named, found, strict=True):
            values[label].append(value)
    if order is not None:
        matches.sort(key=lambda i: (math.isnan(orders[i]), -orders[i]))
    notes = [note for node in (test, order) if node is not None for note in vocabulary.unknown_classes(node)]
    notes += [
        f"{name} is measured; for the manifest's column of that name write column({name!r})"
        for name in vocabulary.shadowed(named)
    ]
    if missing:
        notes.append(
            f"{missing} of {len(rows)} fields lack a value that is compared; that comparison is false"
        )
    return Selection(
        root, where, split, sort, ids, values, matches[:limit], len(matches), missing, tuple(notes)
    )


def vocabulary_of(root: Path, split: str | None = None) -> Vocabulary:
    """The names that an expression over a data folder may use.

    Raises
    ------
    MsdmError
        The folder or its manifest is missing or wrong.
    """
    rows, kinds = _rows(root, split), mask_kinds(root)
    _, classes = index_instances(root, (row["id"] for row in rows), kinds)
    return Vocabulary.of(rows, kinds, classes)


def _rows(root: Path, split: str | None) -> list[dict[str, str]]:
    if not root.is_dir():
        raise MsdmError(f"folder {root} is missing; give one that holds {MANIFEST}")
    return select_split(read_manifest(root / MANIFEST), split, root / MANIFEST)


def _ask(job: _Job, asked: tuple[dict[str, str], Spans]) -> tuple[bool, bool, float, list[float | str]]:
    """Whether a field matches, whether it lacks a value, its place in the order, and the named values."""
    row, spans = asked
    field = Field(job.root, row, classes=classes_at(job.root, row["id"], spans))
    true = job.where is None or bool(job.where.value(field))
    lacks = field.missing
    place = float(job.sort.value(field)) if job.sort is not None else 0.0
    found = [term.value(field) for term in job.terms]
    return true, lacks, place, [value if isinstance(value, str) else float(value) for value in found]


@dataclass(frozen=True)
class Distribution:
    """Of a number over fields; NaN where no field has it."""

    fields: int
    missing: int
    mean: float
    std: float
    min: float
    median: float
    max: float


def distribution(values: Sequence[float | str]) -> Distribution:
    """The distribution of a property's values; the standard deviation is that of the population."""
    numbers = np.asarray(values, np.float64)
    there = numbers[~np.isnan(numbers)]
    figures: list[Callable[[Any], Any]] = [np.mean, np.std, np.min, np.median, np.max]
    found = [float(figure(there)) if there.size else math.nan for figure in figures]
    return Distribution(len(numbers), len(numbers) - there.size, *found)
