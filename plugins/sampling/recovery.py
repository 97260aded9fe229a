"""What is there of a sampling job that was stopped: whole pairs stay, what is half there goes."""

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...core.errors import MsdmError
from ...core.fields import CLASSES_HASH, IMAGES, MANIFEST, hash_column, mask_folder
from ...core.files import file_hash, remove, remove_temporary
from ...core.journal import begin_journal, read_journal, whole_rows
from ...core.manifest import manifest_text, write_manifest
from ..instance_index import InstanceIndex
from ..instances import INSTANCES, Classes, InstanceFile, classes_hash
from .pair_folder import part_name

Row = Mapping[str, str]


class Remains:
    """A folder of pairs as an earlier start of the job left it.

    Parameters
    ----------
    folder : Path
        It need not be there.
    kinds : sequence of str
        Of the masks that every pair has.

    Attributes
    ----------
    rows : list of dict
        Of the pairs that are whole: each file is there and has the hash that the row says, and so have the
        classes of the instances.
    lost : int
        Pairs that are not.

    Raises
    ------
    MsdmError
        A part of the manifest or of the classes is damaged, or cannot be read.
    """

    def __init__(self, folder: Path, kinds: Sequence[str]) -> None:
        self.folder = folder
        self._folders = (IMAGES, *map(mask_folder, kinds))
        found = {row["id"]: row for part in _parts(folder, MANIFEST) for row in read_journal(part)}
        for part in _parts(folder, INSTANCES):
            _cut(part)
        names = [part.name for part in _parts(folder, INSTANCES)]
        self._classes = [InstanceIndex(folder, found, name) for name in names]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            whole = list(pool.map(self._is_whole, found.values()))
        self.rows = [row for row, good in zip(found.values(), whole, strict=True) if good]
        self.lost = len(found) - len(self.rows)

    def _is_whole(self, row: Row) -> bool:
        for name in self._folders:
            path = self.folder / name / f"{row['id']}.png"
            if not path.is_file() or file_hash(path) != row.get(hash_column(name)):
                return False
        return row.get(CLASSES_HASH, "") == classes_hash(self._classes_of(row["id"]))

    def _classes_of(self, id: str) -> Classes:
        return next((classes for index in self._classes if (classes := index.of(id))), {})

    def tidy(self) -> None:
        """Delete the files that a process which was killed was writing, also when all else was done.

        Raises
        ------
        MsdmError
            One cannot be deleted.
        """
        for folder in (self.folder, *(self.folder / name for name in self._folders)):
            remove_temporary(folder)

    def is_final(self, rows: Sequence[Row]) -> bool:
        """Whether the folder is as `rewrite` would leave it in the end."""
        manifests, path = _parts(self.folder, MANIFEST), self.folder / MANIFEST
        if any(part.name != INSTANCES for part in _parts(self.folder, INSTANCES)):
            return False
        if not rows:
            return not manifests
        return manifests == [path] and path.read_bytes() == manifest_text(rows, path).encode()

    def rewrite(self, rows: Sequence[Row], planned: Collection[str], *, final: bool) -> None:
        """Join the parts, and delete what is not of these rows. After that, look at the folder anew.

        Parameters
        ----------
        rows : sequence of mapping
            That stay, of `rows`, in the order in which they are written.
        planned : collection of str
            Ids that the job gives; files of others are not touched.
        final : bool
            False: the manifest is written so that it can grow.

        Raises
        ------
        MsdmError
            The folder cannot be written.
        """
        if not self.folder.is_dir():
            return
        self._join_classes(rows)
        if final and rows:
            write_manifest(self.folder / MANIFEST, rows)
        else:
            begin_journal(self.folder / MANIFEST, rows)
        # classes last: a pair whose row is left must have its classes
        for name in (MANIFEST, INSTANCES):
            for part in _parts(self.folder, name):
                if part.name != name:
                    remove(part)
        stay = {row["id"] for row in rows}
        for folder in (self.folder / name for name in self._folders):
            for path in folder.glob("*.png") if folder.is_dir() else ():
                if path.stem in planned and path.stem not in stay:
                    remove(path)

    def _join_classes(self, rows: Sequence[Row]) -> None:
        """Write the classes of these pairs into one file; none where no instance has a class."""
        some = False
        with InstanceFile(self.folder) as file:
            for row in rows:
                if classes := self._classes_of(row["id"]):
                    some = True
                    file.add(row["id"], classes)
        if not some:
            remove(self.folder / INSTANCES)


def _parts(folder: Path, name: str) -> list[Path]:
    """The leader's part of a file, where it is there, and those of the other processes."""
    first = folder / name
    others = sorted(folder.glob(part_name(name, 0).replace(".", ".rank-*.", 1)))
    return [*([first] if first.is_file() else []), *others]


def _cut(path: Path) -> None:
    """Cut away the beginning of a row that a process which was killed left."""
    try:
        with path.open("rb") as handle:
            whole = whole_rows(handle)
        if not whole:
            path.unlink()
        elif whole < path.stat().st_size:
            os.truncate(path, whole)
    except OSError as error:
        raise MsdmError(f"cannot mend {path}: {error.strerror}; check the folder's permissions") from None
