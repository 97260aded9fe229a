"""What a sampling job paints: which fields, in which versions, with what of others; checked beforehand."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from ..core.dataset import FieldDataset
from ..core.errors import MsdmError, did_you_mean
from ..core.fields import IMAGES, MANIFEST, has_file, open_manifest
from ..core.manifest import check_ids
from ..core.recipe import SampleSection
from ..core.sample import Sample
from .donors import Donors
from .instance_index import InstanceIndex
from .kept_pixels import UNCHANGED, kept_pixels
from .mask_operations.apply import KEY, Operation, operate
from .pipeline import Pipeline
from .recombination import AS_THEY_ARE, PlannedOutput, Recombination, choose, plan
from .selection_file import load_selection
from .splits import one_label_notes

PAIRS = 8
"""Outputs where no number is given."""


@dataclass(frozen=True)
class Targets:
    """What will be painted.

    Attributes
    ----------
    dataset : FieldDataset
        Every field that gives a facet.
    outputs : list of PlannedOutput
    columns : frozenset of str
        The columns of metadata that the model's conditions read.
    trained : frozenset of str
        Fields whose masks the model was trained on.
    notes : tuple of str
    operations : tuple of Operation
        Applied to the masks of every output.
    seed : int
        Of the operations.
    donors : Donors or None
        Fields of another data set that give colours and metadata.
    classes : InstanceIndex or None
        Of the instances of the fields that give masks.
    settings : SampleSection or None
        Where they start from images, or keep pixels of them, outputs have those of the masks' fields.
    """

    dataset: FieldDataset
    outputs: list[PlannedOutput]
    columns: frozenset[str]
    trained: frozenset[str]
    notes: tuple[str, ...]
    operations: tuple[Operation, ...] = ()
    seed: int = 0
    donors: Donors | None = None
    classes: InstanceIndex | None = None
    settings: SampleSection | None = None

    @property
    def seen(self) -> int:
        """Outputs whose masks the model was trained on."""
        return sum(map(self.is_seen, self.outputs))

    def is_seen(self, output: PlannedOutput) -> bool:
        """Whether the model was trained on the masks of an output."""
        return output.morphology in self.trained

    def read(self, id: str) -> Sample:
        """A field that gives a facet."""
        if self.donors is not None and id in self.donors:
            return self.donors.by_id(id)
        field = self.dataset.by_id(id)
        return field if self.classes is None else replace(field, classes=self.classes.of(id))

    def build(self, output: PlannedOutput) -> Sample:
        """The field to be painted; its column ``mask_operations`` says what was done to the masks."""
        field = output.build(self.read, self.columns)
        before = field.masks
        record = ""
        if self.operations:
            field, record = operate(
                field, self.operations, self.seed, partial(self._other, output.morphology)
            )
        if record or KEY in field.metadata:  # what was done to masks of a painting was not done to this one
            field = replace(field, metadata={**field.metadata, KEY: record})
        if self.settings is not None and self.settings.needs_image:
            image = self.read(output.morphology).image
            field = replace(field, image=image, keep=kept_pixels(self.settings, before, field.masks))
        return field

    def alike(self, id: str) -> list[str]:
        """The painted fields of the size of one of them, itself among them; in alphabetical order.

        Raises
        ------
        MsdmError
            It is alone.
        """
        fields = self._by_size[id]
        if len(fields) == 1:
            raise MsdmError(f"no other field has the size of {id!r}, to mix it with; paint more fields")
        return fields

    @cached_property
    def _by_size(self) -> dict[str, list[str]]:
        """For each painted field, those of its size; a size has one list."""
        sizes = dict(zip(self.dataset.ids, self.dataset.sizes, strict=True))
        lists: dict[tuple[int, int], list[str]] = {}
        for id in sorted({output.morphology for output in self.outputs}):
            lists.setdefault(sizes[id], []).append(id)
        return {id: fields for fields in lists.values() for id in fields}

    def _other(self, id: str, rng: np.random.Generator) -> Sample:
        """Another one of the painted fields, of the same size."""
        fields = self.alike(id)
        drawn = int(rng.integers(len(fields) - 1))
        return self.read(fields[drawn + (drawn >= bisect_left(fields, id))])


def plan_targets(
    pipeline: Pipeline,
    data: Path,
    *,
    n: int | None = None,
    split: str | None = None,
    select: str | Path | None = None,
    versions: int | None = None,
    seed: int = 0,
    options: Recombination = AS_THEY_ARE,
    operations: Sequence[Operation] = (),
    donors: Path | None = None,
    settings: SampleSection | None = None,
) -> Targets:
    """Choose what to paint, open the fields of it, and check them with the model's conditions.

    Parameters
    ----------
    pipeline : Pipeline
    data : Path
    n : int or None
        Outputs, spread evenly over the fields; None takes 8, or all of a selection.
    split : str or None
        None: the fields that are not in the recipe's training split, where there are any.
    select : path or None
        A selection: its fields are painted, in place of a split's.
    versions : int or None
        So many outputs of every field, in place of `n`.
    seed : int
        Of the matches, of colours that are drawn from ranges, and of mask operations.
    options : Recombination
    operations : sequence of Operation
        Applied to the masks of every output.
    donors : Path or None
        Another data set: its fields give colours and metadata (or which of them `options` names).
    settings : SampleSection or None
        Of the sampling; None starts from noise and keeps nothing.

    Raises
    ------
    MsdmError
        Options contradict each other, a name is unknown, or a field lacks what a condition reads.
    """
    for name, number in (("n", n), ("versions", versions)):
        if number is not None and number < 1:
            raise MsdmError(f"cannot paint {number} fields; give --{name} 1 or more")
    if n is not None and versions is not None:
        raise MsdmError("--n is the number of pairs and --versions that of each field; give one of them")
    if select is not None and split is not None:
        raise MsdmError(
            "--select names the fields, and --split others; give one, or --split to msdm-kit data select"
        )
    if select is not None:
        ids, notes = load_selection(select, data)
    else:
        ids, notes = _ids(data, pipeline, split), []
    pool = None
    if donors is not None:
        pool = Donors(donors, pipeline.recipe.data.masks)
        options = pool.of(options)
    total = len(ids) * versions if versions else n or (PAIRS if select is None else len(ids))
    if options.active or operations:
        rounds = -(-total // len(ids))
        made = {(o.morphology, o.version): o for o in plan(ids, rounds, seed, options)}
        outputs = [made[o.morphology, o.version] for o in choose(ids, total)]
    else:
        outputs = choose(ids, total)
    used = dict.fromkeys(id for o in outputs for id in (o.morphology, o.appearance, o.metadata))
    if pool is not None:
        pool.open([id for id in used if id in pool])
    here = [id for id in used if pool is None or id not in pool]
    dataset = FieldDataset(data, masks=pipeline.recipe.data.masks, ids=here, images=False)
    notes += _notes(pipeline, outputs, options)
    _check_names(dataset, outputs)
    for kind in options.colours:
        if kind not in dataset.kinds:
            raise MsdmError(f"no mask kind {kind!r} to give a colour; {did_you_mean(kind, dataset.kinds)}")
    _check_looks(pipeline, dataset, outputs)
    if settings is not None:
        _check_images(settings, dataset, outputs, operations)
    none: frozenset[str] = frozenset()
    classes = InstanceIndex(data, {output.morphology for output in outputs})
    targets = Targets(dataset, outputs, none, none, (), tuple(operations), seed, pool, classes, settings)
    columns = _columns_read(pipeline, outputs[0].build(targets.read))
    for column in options.metadata:
        if column not in columns and column not in dataset.rows[0]:
            raise MsdmError(
                f"no column {column!r} to give a value, in {MANIFEST} or in what the conditions read; "
                f"{did_you_mean(column, columns | set(dataset.rows[0]))}"
            )
    checked: set[tuple[str, str]] = set()
    for output in outputs:
        facets = {("masks", output.morphology), ("look", output.appearance), ("words", output.metadata)}
        # a field is observed once as a giver of each facet, not once per version
        if not facets <= checked:
            pipeline.check(output.build(targets.read, columns))
            checked |= facets
    training = pipeline.recipe.data.train_split
    trained = frozenset(row["id"] for row in dataset.rows if row.get("split") == training)
    if any(step.operation.needs_other for step in operations):
        for output in outputs:
            targets.alike(output.morphology)
    return replace(targets, columns=columns, trained=trained, notes=(*notes, *one_label_notes(dataset)))


def _ids(data: Path, pipeline: Pipeline, split: str | None) -> list[str]:
    recipe = pipeline.recipe
    rows = open_manifest(data, recipe.data.masks, split, None, images=False)
    ids = [row["id"] for row in rows]
    if split is None and "split" in rows[0]:
        return [row["id"] for row in rows if row["split"] != recipe.data.train_split] or ids
    return ids


def _notes(pipeline: Pipeline, outputs: Sequence[PlannedOutput], options: Recombination) -> list[str]:
    """What the options do not do."""
    read = {facet for name in pipeline.denoiser.names for facet in pipeline.denoiser.conditioner(name).reads}
    given = {"appearance": bool(options.colours), "metadata": bool(options.metadata)}
    notes = [
        f"no condition of recipe {pipeline.recipe.name!r} reads {facet}: another one changes no image"
        for facet in ("appearance", "metadata")
        if (facet in options.facets or given[facet]) and facet not in read
    ]
    for facet in sorted(options.facets):
        own = sum(getattr(output, facet) == output.morphology for output in outputs)
        if own:
            notes.append(
                f"there is no other field to take {facet} from: {own} of {len(outputs)} keep their own"
            )
    return notes


def _check_looks(pipeline: Pipeline, dataset: FieldDataset, outputs: Sequence[PlannedOutput]) -> None:
    """A field without an image has no colours to give."""
    if not any("appearance" in pipeline.denoiser.conditioner(n).reads for n in pipeline.denoiser.names):
        return
    here = set(dataset.ids)
    for output in outputs:
        whole = all(output.colours.get(kind, (None, None))[1] is not None for kind in dataset.kinds)
        look = output.appearance
        if not whole and look in here and not has_file(dataset.root / IMAGES, look):
            raise MsdmError(
                f"{dataset.root} has no image of {look!r} to take colours from; give --donors DIR, another "
                f"data set that has images, or --colour with deviations for each kind"
            )


def _check_images(
    settings: SampleSection,
    dataset: FieldDataset,
    outputs: Sequence[PlannedOutput],
    operations: Sequence[Operation],
) -> None:
    """What is painted from an image, or keeps pixels of one, has it."""
    if settings.keep == UNCHANGED and not operations:
        raise MsdmError(
            "keep unchanged: without mask operations all is unchanged; give --mask-op, or keep inside:KIND "
            "or outside:KIND"
        )
    for output in outputs if settings.needs_image else ():
        if not has_file(dataset.root / IMAGES, output.morphology):
            raise MsdmError(
                f"{dataset.root} has no image of {output.morphology!r} to start from or to keep pixels of; "
                f"give --start noise and --keep nothing, or a data set that has images"
            )


def _check_names(dataset: FieldDataset, outputs: Sequence[PlannedOutput]) -> None:
    ids: set[str] = set()
    for output in outputs:
        if output.id in ids:
            raise MsdmError(
                f"{dataset.root} has a field {output.id!r}, which is also a further version of another; "
                f"paint one version of each"
            )
        ids.add(output.id)
    check_ids([output.id for output in outputs], MANIFEST)


class _Recorder(Mapping[str, str]):
    """Metadata that remember which columns were read."""

    def __init__(self, words: Mapping[str, str]) -> None:
        self.words = words
        self.read: set[str] = set()

    def __getitem__(self, column: str) -> str:
        self.read.add(column)
        return self.words[column]

    def __contains__(self, column: object) -> bool:
        return column in self.words

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __len__(self) -> int:
        return len(self.words)


def _columns_read(pipeline: Pipeline, field: Sample) -> frozenset[str]:
    words = _Recorder(field.metadata)
    pipeline.check(replace(field, metadata=words))
    return frozenset(words.read)
