"""Training and validation fields of a data set."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.dataset import FieldDataset
from ..core.errors import MsdmError
from ..core.fields import MANIFEST
from ..core.manifest import read_manifest
from ..core.recipe import Recipe
from ..core.seeds import seed_for
from .instance_index import InstanceIndex
from .instances import INSTANCES

HELD_OUT = 10
"""Where a manifest has no split column, one field in so many is held out for validation."""


@dataclass(frozen=True)
class Splits:
    """The fields that are trained on, and those that are not.

    Attributes
    ----------
    train : FieldDataset
    validation : FieldDataset or None
        None where the manifest has a split column and no row of it is for validation.
    notes : tuple of str
        What was decided for the user, and what looks wrong with masks that pass the checks.
    classes : frozenset of str
        Of the instances of both.
    """

    train: FieldDataset
    validation: FieldDataset | None
    notes: tuple[str, ...] = ()
    classes: frozenset[str] = frozenset()

    @property
    def fingerprint(self) -> str:
        """Of the training fields' ids, in order."""
        return hashlib.sha256("\n".join(self.train.ids).encode()).hexdigest()

    def check_same(self, fingerprint: str, folder: Path) -> None:
        """Check that a run was trained on these fields.

        Raises
        ------
        MsdmError
            It was not.
        """
        if fingerprint != self.fingerprint:
            raise MsdmError(
                f"{folder} was trained on other fields than the {len(self.train)} in {self.train.root}; "
                f"resume with the same --data, or start a new run"
            )


def open_splits(
    recipe: Recipe, folder: Path, *, on_progress: Callable[[int, int], None] | None = None
) -> Splits:
    """Open and check the training and validation fields of a folder.

    By the manifest's ``split`` column where it has one. Otherwise one field in ten, chosen by a hash of its
    id, is held out for validation.

    Raises
    ------
    MsdmError
        The folder or a field in it is not as it should be.
    """
    splits = _open(recipe, folder, on_progress)
    notes = splits.notes + tuple(one_label_notes(splits.train))
    if not (folder / INSTANCES).is_file():
        return replace(splits, notes=notes)
    validation = splits.validation
    ids = [*splits.train.ids, *(validation.ids if validation else ())]
    index = InstanceIndex(folder, ids, kinds=recipe.data.masks)
    return Splits(
        splits.train.with_classes(index.of),
        validation and validation.with_classes(index.of),
        notes,
        frozenset().union(*index.names.values()),
    )


def one_label_notes(fields: FieldDataset) -> Iterator[str]:
    """A note for every mask kind with masks that look like pictures of 0 and 255."""
    for kind in fields.kinds:
        count = sum(kind in kinds for kinds in fields.one_label)
        if count:
            yield (
                f"{count} of {len(fields)} masks of kind {kind!r} have one label alone, in several "
                f"places, as pictures of 0 and 255 do: it counts as one instance; number the instances, such "
                f"as with skimage.measure.label"
            )


def _open(recipe: Recipe, folder: Path, on_progress: Callable[[int, int], None] | None) -> Splits:
    data = recipe.data
    rows = read_manifest(folder / MANIFEST) if folder.is_dir() else []
    if rows and "split" not in rows[0]:
        every = FieldDataset(folder, masks=data.masks, on_progress=on_progress)
        held = {i for i in every.ids if seed_for("held out", i) % HELD_OUT == 0}
        kept = [i for i in every.ids if i not in held]
        if not held or not kept:
            note = "the manifest has no split column and too few fields to hold any out: no validation"
            return Splits(every, None, (note,))
        note = f"the manifest has no split column: {len(held)} of {len(every)} fields held out for validation"
        return Splits(every.subset(kept), every.subset(sorted(held)), (note,))
    train = FieldDataset(folder, masks=data.masks, split=data.train_split, on_progress=on_progress)
    if not any(row["split"] == data.validation_split for row in rows):
        note = f"no row of the manifest has split {data.validation_split!r}: no validation loss, no previews"
        return Splits(train, None, (note,))
    validation = FieldDataset(folder, masks=data.masks, split=data.validation_split)
    if set(validation.ids) & set(train.ids):
        note = "the validation fields are trained on as well: their loss says nothing of other fields"
        return Splits(train, validation, (note,))
    return Splits(train, validation)
