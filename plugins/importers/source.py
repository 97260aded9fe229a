"""The files that are imported from: what there is, and which picture belongs to which annotation."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

from ...core.errors import MsdmError

PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
GLANCE_FILES = 20_000
GLANCE_ALIKE = 200
"""Files of one suffix in one folder that a glance takes."""
BESIDE_DEPTH = 3
"""Folders below a single file's own in which its pictures are looked for."""
# Folders of pictures that are no fields.
NOT_FIELDS = frozenset(
    (
        *("mask", "masks", "label", "labels", "label masks", "label masks modify", "mask binary"),
        *("overlay", "overlays", "distance maps", "cells", "nuclei"),
    )
)
_SEPARATORS = ("_", "-", ".", " ")


@dataclass(frozen=True, eq=False)
class Source:
    """A file or folder to import from, and what the user said of it.

    Attributes
    ----------
    path : Path
        A file, or a folder that is searched with all in it. Hidden files are left out.
    images : Path or None
        A folder of pictures, where they do not lie with the annotations.
    allow_pickle : bool
        Whether files that are Python pickles may be read.
    kind : str
        The mask kind of instances whose kind the format does not say.
    """

    path: Path
    images: Path | None = None
    allow_pickle: bool = False
    kind: str = "nucleus"

    @property
    def root(self) -> Path:
        """The folder: `path`, or that of the file."""
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def glance(self) -> tuple[Path, ...]:
        """Some of the files, enough to tell a format: at most 200 of each suffix in a folder."""
        if not self.path.is_dir():
            return (self.path,)
        found: list[Path] = []
        for folder, names in _walk(self.path):
            alike: dict[str, int] = {}
            for name in names:
                suffix = os.path.splitext(name)[1].lower()
                alike[suffix] = alike.get(suffix, 0) + 1
                if alike[suffix] <= GLANCE_ALIKE:
                    found.append(folder / name)
            if len(found) >= GLANCE_FILES:
                break
        return tuple(found)

    def files(self, *endings: str) -> Iterator[Path]:
        """All files whose names end so, in lower or upper case, folder by folder, sorted within each."""
        if not self.path.is_dir():
            if self.path.name.lower().endswith(endings):
                yield self.path
            return
        for folder, names in _walk(self.path):
            yield from (folder / name for name in names if name.lower().endswith(endings))

    def relative(self, path: Path) -> str:
        """A file's name as seen from the folder, with forward slashes."""
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:
            return path.name

    def find_image(self, near: Path, *names: str, prefix: bool = False) -> Path | None:
        """The picture of an annotation.

        It is looked for in `images` where that is given, otherwise in the source: first beside the
        annotation, then anywhere, except in folders of masks and overlays.

        Parameters
        ----------
        near : Path
            The annotation's file.
        *names : str
            The picture's name without its suffix; the first that there is.
        prefix : bool
            Whether a picture ``a`` also belongs to ``a_cells``, ``a-cells``, ``a.tif - x``; the longest wins.

        Raises
        ------
        MsdmError
            Several pictures have the name; or `images` is given and has none.
        """
        index = self._pictures
        stems = list(names)
        if prefix:
            stems += [s[:end] for s in names for end in range(len(s) - 1, 0, -1) if s[end] in _SEPARATORS]
        found = next((index[stem] for stem in stems if stem in index), [])
        beside = [path for path in found if path.parent == near.parent]
        found = [path for path in beside or found if path != near]
        if len(found) > 1:
            raise MsdmError(
                f"{found[0]} and {found[1]} may both be the picture of {near.name}; keep one, or name the "
                f"right folder with --images"
            )
        if not found and self.images is not None:
            raise MsdmError(
                f"{self.images} has no picture of {near.name}: it would be {names[0]}.png, .tif, .jpg or "
                f".bmp; add it there, or take away that file"
            )
        return found[0] if found else None

    def need_image(self, near: Path, name: str, prefix: bool = False) -> Path:
        """As `find_image`, where the annotation is of no use without: the size of the field is the picture's.

        Raises
        ------
        MsdmError
            There is none, or as `find_image` raises.
        """
        image = self.find_image(near, name, prefix=prefix)
        if image is None:
            raise MsdmError(
                f"{near} does not say how large its picture is, and none is called {name}; name the folder "
                f"of pictures with --images"
            )
        return image

    def inside(self, name: str, folders: Collection[Path]) -> Path | None:
        """The file that a name found in another file stands for.

        Parameters
        ----------
        name : str
            A relative path, not to be trusted.
        folders : collection of Path
            Where it may lie, the first that has it.

        Raises
        ------
        MsdmError
            The name leads out of its folder, or is none that a file can have.
        """
        check_name(name, self.path)
        for folder in folders:
            path = folder / name
            try:
                there = path.is_file()
            except OSError as error:
                raise MsdmError(
                    f"{self.path} names a file {name!r:.80}, and none can be called so ({error.strerror}); "
                    f"rename it in both"
                ) from None
            if there:
                if not path.resolve().is_relative_to(folder.resolve()):
                    raise MsdmError(
                        f"{path} leads out of {folder}, which is refused; put the file itself there"
                    )
                return path
        return None

    @cached_property
    def _pictures(self) -> dict[str, list[Path]]:
        """Pictures by name without suffix."""
        if self.images is not None and not self.images.is_dir():
            raise MsdmError(f"folder {self.images} is missing; --images names the folder of the pictures")
        start = self.images or self.root
        depth = BESIDE_DEPTH if self.images is None and not self.path.is_dir() else None
        found: dict[str, list[Path]] = {}
        for folder, names in _walk(start, depth, NOT_FIELDS):
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in PICTURES:
                    found.setdefault(stem, []).append(folder / name)
        return found


def check_name(name: str, where: Path) -> None:
    """Refuse a path, taken from a file, that leads out of its folder.

    Raises
    ------
    MsdmError
        It is absolute, has a drive, or has ``..`` in it.
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    outside = posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts
    if outside or not name or "\0" in name:
        raise MsdmError(
            f"{where} names a file {name!r:.80}, which leads out of its folder and is refused; names must be "
            f"relative, without '..'"
        )


def _walk(
    start: Path, depth: int | None = None, leave: Collection[str] = ()
) -> Iterator[tuple[Path, list[str]]]:
    """Folders and the sorted names of their files, parents before children; hidden ones are left out.

    Pipes, sockets and devices are left out: opening one may never end. So are folders that a link leads to.
    """
    folders, names = [], []
    try:
        with os.scandir(start) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif _is_file(entry):
                    names.append(entry.name)
    except OSError:  # no permission: as if it were empty
        return
    yield start, sorted(name for name in names if not name.startswith("."))
    for name in sorted(folders) if depth is None or depth > 0 else ():
        if not name.startswith((".", "__MACOSX")) and name.lower() not in leave:
            yield from _walk(start / name, None if depth is None else depth - 1, leave)


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False
