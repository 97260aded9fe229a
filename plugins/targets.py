"""What a sampling job paints: which fields, in which versions, with what of others; checked beforehand."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.dataset import FieldDataset
from ..core.errors import MsdmError, did_you_mean
from ..core.fields import MANIFEST, open_manifest
from ..core.manifest import check_ids
from ..core.sample import Sample
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
    seen : int
        Outputs whose masks the model was trained on.
    notes : tuple of str
    """

    dataset: FieldDataset
    outputs: list[PlannedOutput]
    columns: frozenset[str]
    seen: int
    notes: tuple[str, ...]

    def build(self, output: PlannedOutput) -> Sample:
        """The field to be painted."""
        return output.build(self.dataset.by_id, self.columns)


def open_fields(data: Path, pipeline: Pipeline, split: str | None) -> FieldDataset:
    """The fields to choose from: of a split, or else those that are not for training where there are any."""
    return FieldDataset(data, masks=pipeline.recipe.data.masks, ids=_ids(data, pipeline, split))


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
) -> Targets:
    """Choose what to paint, open the fields of it, and check them with the model's conditions.

    Parameters
    ----------
    pipeline : Pipeline
    data : Path
    n : int or None
        Outputs, spread evenly over the fields; None takes 8, or all of a selection.
    split : str or None
        As `open_fields` takes it.
    select : path or None
        A selection: its fields are painted, in place of a split's.
    versions : int or None
        So many outputs of every field, in place of `n`.
    seed : int
        Of the matches, and of colours that are drawn from ranges.
    options : Recombination

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
    total = len(ids) * versions if versions else n or (PAIRS if select is None else len(ids))
    if options.active:
        rounds = -(-total // len(ids))
        made = {(o.morphology, o.version): o for o in plan(ids, rounds, seed, options)}
        outputs = [made[o.morphology, o.version] for o in choose(ids, total)]
    else:
        outputs = choose(ids, total)
    used = dict.fromkeys(id for o in outputs for id in (o.morphology, o.appearance, o.metadata))
    dataset = FieldDataset(data, masks=pipeline.recipe.data.masks, ids=list(used))
    notes += _notes(pipeline, outputs, options)
    _check_names(dataset, outputs)
    for kind in options.colours:
        if kind not in dataset.kinds:
            raise MsdmError(f"no mask kind {kind!r} to give a colour; {did_you_mean(kind, dataset.kinds)}")
    columns = _columns_read(pipeline, outputs[0].build(dataset.by_id))
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
            pipeline.check(output.build(dataset.by_id, columns))
            checked |= facets
    splits = {row["id"]: row.get("split") for row in dataset.rows}
    seen = sum(splits[output.morphology] == pipeline.recipe.data.train_split for output in outputs)
    return Targets(dataset, outputs, columns, seen, (*notes, *one_label_notes(dataset)))


def _ids(data: Path, pipeline: Pipeline, split: str | None) -> list[str]:
    recipe = pipeline.recipe
    rows = open_manifest(data, recipe.data.masks, split, None)
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
