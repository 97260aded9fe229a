"""A folder of painted pairs: a data set that grows by a pair at a time, each traced in its manifest."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ...core.fields import CLASSES_HASH, IMAGES, MANIFEST, hash_column, mask_folder
from ...core.files import file_hash
from ...core.images import save_image, save_labels
from ...core.journal import Journal
from ..instances import INSTANCES, InstanceJournal, classes_hash
from ..pipeline import Synthetic


def rejected_folder(out: Path) -> Path:
    """Where rejected paintings go: ``OUT.rejected``, beside `out`; a folder within would be a mask kind."""
    named = out if out.name not in ("", "..") else out.resolve()
    return named.with_name(f"{named.name}.rejected")


def part_name(name: str, rank: int) -> str:
    """What a process calls its part of a file: ``metadata.csv`` of the leader, ``metadata.rank-3.csv``."""
    stem, _, suffix = name.partition(".")
    return name if rank == 0 else f"{stem}.rank-{rank}.{suffix}"


class PairFolder:
    """A data set of painted pairs; a context manager. It is made when the first pair comes.

    Whatever way a job ends, all that its manifest lists is there, and whole.

    Parameters
    ----------
    folder : Path
    rank : int
        Each process writes a part of the manifest of its own, so that none waits for another.
    ids : iterable of str
        Pairs that this process's part lists already.
    classes : bool
        Whether rows have the hash of their pair's classes.
    """

    def __init__(
        self, folder: Path, rank: int = 0, ids: Iterable[str] = (), *, classes: bool = False
    ) -> None:
        self.folder = folder
        self._manifest = Journal(folder / part_name(MANIFEST, rank), ids)
        self._classes = InstanceJournal(folder / part_name(INSTANCES, rank))
        self._hashes_classes = classes

    def __enter__(self) -> "PairFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        self._classes.close()
        self._manifest.close()

    def add(self, synthetic: Synthetic, row: Mapping[str, str]) -> None:
        """Write a pair and the classes of its instances under the id of its row, and then the row.

        Parameters
        ----------
        synthetic : Synthetic
        row : mapping of str -> str
            Columns with the SHA-256 of each file come to it.

        Raises
        ------
        MsdmError
            As `Journal.add`, or a file cannot be written.
        """
        id, target = row["id"], synthetic.target
        image = self.folder / IMAGES / f"{id}.png"
        save_image(image, synthetic.image)
        hashes = {hash_column(IMAGES): file_hash(image)}
        for kind, labels in target.masks.items():
            mask = self.folder / mask_folder(kind) / f"{id}.png"
            save_labels(mask, labels)
            hashes[hash_column(mask_folder(kind))] = file_hash(mask)
        classes = {kind: target.classes.get(kind, {}) for kind in target.masks}
        self._classes.add(id, classes)
        if self._hashes_classes:
            hashes[CLASSES_HASH] = classes_hash(classes)
        self._manifest.add({**row, **hashes})
