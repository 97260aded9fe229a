"""A plan with everything that it names, checked before anything is computed."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...core.errors import MsdmError, did_you_mean
from ...core.fields import IMAGES, MANIFEST, has_file, locate, mask_folder, mask_kinds
from ...core.manifest import read_manifest
from ...core.recipe import PluginEntry, Recipe
from ..check import check_plugins
from ..choice import choose
from ..data import data_folder
from ..expressions import condition, number
from ..host import get_host
from ..metrics.base import MaskMetric
from ..metrics.distance import read_distance
from ..recipe_files import load_recipe
from ..segmentation.scores import mask_metrics
from ..segmenters.jobs import new_segmenter
from ..selection import vocabulary_of
from .plan import Plan

Row = Mapping[str, str]


@dataclass(frozen=True)
class Protocol:
    """A plan whose names have been looked up.

    Attributes
    ----------
    plan : Plan
    folder : Path
        Of the data.
    rows : dict of split -> list of rows of the manifest
        Of the splits that the plan names.
    recipes : dict of generator -> Recipe
        Resolved, with the plan's changes.
    annotators : dict of name -> Path
        Every data set with masks of the test fields, that of `plan.data` first.
    metrics : dict of name -> MaskMetric
        All of them.
    columns : tuple of str
        Metrics of Table 1.
    """

    plan: Plan
    folder: Path
    rows: dict[str, list[Row]]
    recipes: dict[str, Recipe]
    annotators: dict[str, Path]
    metrics: dict[str, MaskMetric]
    columns: tuple[str, ...]

    def ids(self, *splits: str) -> list[str]:
        """The ids of splits, in the manifest's order within each."""
        return [row["id"] for split in splits for row in self.rows[split]]

    @property
    def test_splits(self) -> tuple[str, ...]:
        """The splits of the test sets, each once."""
        return tuple(dict.fromkeys(test.split for test in self.plan.tests.values()))

    @property
    def test_ids(self) -> list[str]:
        """The fields of all test sets, each once."""
        return self.ids(*self.test_splits)


def open_protocol(plan: Plan, path: Path) -> Protocol:
    """Look up what a plan names.

    Parameters
    ----------
    plan : Plan
    path : Path
        Of its file: relative paths in it count from there, where they lead to something.

    Raises
    ------
    MsdmError
        Anything is not there or not legal: with the path of the field that says so.
    """
    with place(path, "data"):
        folder = _data(plan.data, path)
        manifest = read_manifest(folder / MANIFEST)
    if "split" not in manifest[0]:
        raise MsdmError(
            f"plan {path}: data: {folder / MANIFEST} has no column split; add one, as an experiment needs "
            f"fields to train on, to validate on and to test on"
        )
    named = {
        "splits.train": plan.splits.train,
        "splits.validation": plan.splits.validation,
        "fidelity.split": plan.fidelity_split,
        **{f"tests.{name}.split": test.split for name, test in plan.tests.items()},
    }
    rows: dict[str, list[Row]] = {}
    for where, split in named.items():
        rows[split] = [row for row in manifest if row["split"] == split]
        if not rows[split]:
            hint = did_you_mean(split, {row["split"] for row in manifest})
            raise MsdmError(
                f"plan {path}: {where}: no row of {folder / MANIFEST} has split {split!r}; {hint}"
            )
    kinds = mask_kinds(folder)
    for i, kind in enumerate(plan.kinds):
        if kind not in kinds:
            hint = did_you_mean(kind, kinds)
            raise MsdmError(f"plan {path}: kinds.{i}: {folder} has no folder {mask_folder(kind)}; {hint}")
    for i, column in enumerate(plan.fidelity.groups):
        if column not in manifest[0]:
            hint = did_you_mean(column, manifest[0])
            raise MsdmError(f"plan {path}: fidelity.groups.{i}: no column {column!r} in the manifest; {hint}")
    vocabulary = vocabulary_of(folder, plan.splits.train)
    if plan.selection.where is not None:
        with place(path, "selection.where"):
            condition(plan.selection.where, vocabulary)
    if plan.selection.sort is not None:
        with place(path, "selection.sort"):
            number(plan.selection.sort, vocabulary)
    with place(path, "distance"):
        for row in (row for test in plan.tests.values() for row in rows[test.split]):
            read_distance(plan.distance).pixels_in(row, f"{folder / MANIFEST}, field {row['id']!r}")
    recipes = {name: _recipe(plan, name, path) for name in plan.generators}
    with place(path, "segmenter"):
        for kind in plan.kinds:
            new_segmenter(choice(plan.segmenter), kind, device="cpu")
    with place(path, "fidelity.embedder"):
        _, embedder, config = choose("embedder", choice(plan.fidelity.embedder), "fidelity.embedder")
        embedder.check(config)
    metrics = mask_metrics()
    columns = plan.columns or tuple(
        name for name in paper_columns() if set(metrics[name].kinds) <= set(plan.kinds)
    )
    for i, name in enumerate(columns):
        with place(path, f"columns.{i}"):
            mask_metrics([name])
        if not set(metrics[name].kinds) <= set(plan.kinds):
            raise MsdmError(
                f"plan {path}: columns.{i}: {name} reads kinds {', '.join(metrics[name].kinds)}, and kinds "
                f"has {', '.join(plan.kinds)}; add them, or take another metric"
            )
    usable = {name: metric for name, metric in metrics.items() if set(metric.kinds) <= set(plan.kinds)}
    protocol = Protocol(plan, folder, rows, recipes, {plan.annotator: folder}, usable, columns)
    return replace(protocol, annotators={plan.annotator: folder, **_annotators(protocol, path)})


def choice(entry: PluginEntry) -> dict[str, Any]:
    """An entry as `choose` takes it."""
    return {"type": entry.type, **entry.settings}


def paper_columns() -> tuple[str, ...]:
    """The metrics of Table 1 of the paper."""
    from ..metrics.masks import PAPER

    return PAPER


@contextmanager
def place(path: Path, where: str) -> Iterator[None]:
    """Put the plan and the dotted path before the message of an MsdmError."""
    try:
        yield
    except MsdmError as error:
        raise MsdmError(f"plan {path}: {where}: {error}") from error


def fingerprint(root: Path, rows: Sequence[Row], *, images: bool = True, masks: bool = True) -> str:
    """A hash of fields: their rows, and the bytes of their images and of their masks of every kind."""
    folders = [root / IMAGES] if images else []
    folders += [root / mask_folder(kind) for kind in mask_kinds(root)] if masks else []
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
        for folder in folders:
            there = has_file(folder, row["id"])
            data = locate(folder, row["id"]).read_bytes() if there else b""
            digest.update(folder.name.encode() + hashlib.sha256(data).digest())
    return digest.hexdigest()


def _data(name: str, path: Path) -> Path:
    beside = path.parent / name
    return beside if beside.is_dir() else data_folder(name)


def _recipe(plan: Plan, name: str, path: Path) -> Recipe:
    entry = plan.generators[name]
    with place(path, f"generators.{name}"):
        beside = path.parent / entry.recipe
        known = entry.recipe in get_host().names("recipe")
        source = beside if beside.is_file() and not known else entry.recipe
        splits = {"train_split": plan.splits.train, "validation_split": plan.splits.validation}
        overrides = [f"data.{key}={json.dumps(value)}" for key, value in splits.items()]
        recipe = load_recipe(source, [*entry.overrides, f"name={name}", *overrides])
        check_plugins(recipe)
    return recipe


def _annotators(protocol: Protocol, path: Path) -> dict[str, Path]:
    """The folders of the other annotators, which have a mask of each kind for every test field."""
    found = {}
    for name, data in protocol.plan.annotators.items():
        with place(path, f"annotators.{name}"):
            found[name] = _data(data, path)
            for kind in protocol.plan.kinds:
                for id in protocol.test_ids:
                    locate(found[name] / mask_folder(kind), id)
    return found
