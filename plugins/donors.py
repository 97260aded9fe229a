"""Another data set that gives colours and metadata to masks that have none, such as synthesised ones."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..core.dataset import FieldDataset
from ..core.errors import MsdmError
from ..core.fields import open_manifest
from ..core.sample import Sample
from .recombination import RECOMBINED, Recombination


class Donors:
    """Fields of another data set, called ``<name of its folder>/<id>``, which no field here is called.

    Parameters
    ----------
    folder : Path
    kinds : sequence of str
        Mask kinds that the fields must have.

    Raises
    ------
    MsdmError
        A folder or the manifest is missing or wrong.
    """

    def __init__(self, folder: Path, kinds: Sequence[str]) -> None:
        self._folder, self._kinds = folder, kinds
        self._prefix = f"{folder.resolve().name}/"
        self._ids = frozenset(row["id"] for row in open_manifest(folder, kinds, None, None))
        self._dataset: FieldDataset | None = None

    def __contains__(self, id: str) -> bool:
        return id.startswith(self._prefix) and id.removeprefix(self._prefix) in self._ids

    def of(self, options: Recombination) -> Recombination:
        """The options with these fields as the ones to take from; of both facets where they name none.

        Raises
        ------
        MsdmError
            They name fields to take from already.
        """
        if options.donors:
            raise MsdmError(
                "--donors takes colours and metadata from another data set, --appearance-from and "
                "--metadata-from from fields of this one; give one of them"
            )
        facets = options.facets or frozenset(RECOMBINED)
        ids = tuple(self._prefix + id for id in sorted(self._ids))
        return replace(
            options,
            facets=facets,
            appearance_from=ids if "appearance" in facets else None,
            metadata_from=ids if "metadata" in facets else None,
        )

    def open(self, ids: Sequence[str]) -> None:
        """Check and decode the fields that are used.

        Raises
        ------
        MsdmError
            One of them is damaged.
        """
        names = [id.removeprefix(self._prefix) for id in ids]
        self._dataset = FieldDataset(self._folder, masks=self._kinds, ids=names)

    @property
    def dataset(self) -> FieldDataset | None:
        """The fields that were opened, under their own ids."""
        return self._dataset

    def by_id(self, id: str) -> Sample:
        """A field that was opened; its id is the long one."""
        if self._dataset is None:
            raise MsdmError(f"field {id!r} is of {self._folder}, which was not opened")
        return replace(self._dataset.by_id(id.removeprefix(self._prefix)), id=id)
