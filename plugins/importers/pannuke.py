"""PanNuke: folds of three .npy files, in folders or ZIP archives (Gamper et al. 2020, arXiv 2003.10778)."""

import warnings
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError
from .archive import check_member, open_zip, unpacking
from .base import Content, ForeignField, Importer
from .reading import check_pixels, read_npy_header, whole
from .source import Source

CLASSES = ("Neoplastic", "Inflammatory", "Connective", "Dead", "Epithelial")
"""Of the channels of `masks.npy`; the sixth is background."""
_MAX_TYPES = 2**26
_GLANCED = 20


class PanNuke(Importer):
    """`images.npy` (N, H, W, 3), `masks.npy` (N, H, W, 6), and `types.npy` (N,) with the organ.

    One field is held at a time: folders are read by memory map, archives as a stream.
    """

    looks_for = "images.npy and masks.npy, in folders or ZIPs"
    in_order = True

    def detect(self, source: Source) -> bool:
        names = {path.name for path in source.glance}
        if {"images.npy", "masks.npy"} <= names:
            return True
        archives = [path for path in source.glance if path.suffix.lower() == ".zip"]
        return any(_has_fold(path, damaged=False) for path in archives[:_GLANCED])

    def fields(self, source: Source) -> Iterator[ForeignField]:
        seen: set[str] = set()
        loose = {source.relative(path): path for path in source.files(".npy")}
        for images in sorted(name for name in loose if PurePosixPath(name).name == "images.npy"):
            fold = _Fold(images, loose, source.root.name)
            seen.add(fold.name)
            yield from fold.fields(source.relative(loose[images]))
        for path in source.files(".zip"):
            if not _has_fold(path, damaged=True):
                continue
            archive = open_zip(path)
            for images in sorted(n for n in archive.namelist() if PurePosixPath(n).name == "images.npy"):
                fold = _Fold(images, archive, path.stem)
                if fold.name not in seen:  # the archive of a fold that lies unpacked beside it
                    yield from fold.fields(f"{source.relative(path)}: {images}")


def _has_fold(path: Path, *, damaged: bool) -> bool:
    """Whether an archive holds a fold; `damaged` where it cannot be read: `open_zip` says so then."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {"images.npy", "masks.npy"} <= {PurePosixPath(name).name for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return damaged


class _Fold:
    """The three arrays of a fold, found by the name of its `images.npy`."""

    def __init__(self, images: str, files: dict[str, Path] | zipfile.ZipFile, home: str) -> None:
        self._files = files
        path = PurePosixPath(images)
        parts = [part for part in path.parts[:-1] if part.lower() != "images"]
        self.name = parts[-1] if parts else home
        swapped = PurePosixPath(*("masks" if part.lower() == "images" else part for part in path.parts[:-1]))
        folders = (path.parent, swapped)
        names = set(files) if isinstance(files, dict) else set(files.namelist())
        masks = [str(f / "masks.npy") for f in folders if str(f / "masks.npy") in names]
        if not masks:
            raise MsdmError(f"{images} has no masks.npy beside it, nor in {swapped}; put it there")
        types = [str(f / "types.npy") for f in folders if str(f / "types.npy") in names]
        self._images, self._masks = self._stack(images), self._stack(masks[0])
        n, *size = self._images.shape[:3] if len(self._images.shape) == 4 else (-1, 0, 0)
        if self._images.shape != (n, *size, 3) or self._masks.shape != (n, *size, 6):
            raise MsdmError(
                f"{self._images.where} has shape {self._images.shape} and its masks {self._masks.shape}; "
                f"those of PanNuke are (N, H, W, 3) and (N, H, W, 6)"
            )
        check_pixels((size[0], size[1]), self._images.where)
        if self._images.dtype.kind not in "uif":
            raise MsdmError(
                f"{self._images.where} holds {self._images.dtype}; pictures are numbers, 0 to 255"
            )
        self._types = self._words(types[0], n) if types else None

    def fields(self, source: str) -> Iterator[ForeignField]:
        for i in range(self._images.shape[0]):
            words = {"organ": self._types[i]} if self._types else {}
            read = partial(self._read, i)
            yield ForeignField(f"{self.name}_{i:05d}", f"{source}[{i}]", read, {"fold": self.name, **words})

    def _read(self, i: int) -> Content:
        where = f"{self._images.where}[{i}]"
        image = self._images.row(i)
        if not ((image >= 0) & (image <= 255)).all():
            raise MsdmError(f"{where} has values from {image.min()} to {image.max()}; legal are 0 to 255")
        planes = self._masks.row(i)
        labels, classes, lost = _merge([whole(planes[..., k], f"{self._masks.where}[{i}]") for k in range(5)])
        return Content(np.rint(image).astype(np.uint8), {"nucleus": labels}, {"nucleus": classes}, lost)

    def _stack(self, name: str) -> "_Mapped | _Streamed":
        return _Mapped(self._files[name]) if isinstance(self._files, dict) else _Streamed(self._files, name)

    def _words(self, name: str, n: int) -> list[str]:
        if isinstance(self._files, dict):
            stack: _Mapped | _Streamed = _Mapped(self._files[name])
        else:
            check_member(self._files, name, _MAX_TYPES)
            stack = _Streamed(self._files, name)
        if stack.shape != (n,) or stack.dtype.kind not in "US":
            raise MsdmError(
                f"{stack.where} has shape {stack.shape} of {stack.dtype}; types are {n} words, one per field"
            )
        return [str(stack.row(i).astype(str)) for i in range(n)]


class _Mapped:
    """An array on disc, by memory map."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        with open(path, "rb") as stream:
            self.shape, _, self.dtype = read_npy_header(stream, self.where)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of headers as Python 2 wrote them
                self._array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        # what NumPy raises on a header that no array fits depends on the header
        except Exception as error:
            raise MsdmError(
                f"{path} is shorter than its header says, or damaged ({error}); copy it again"
            ) from None

    def row(self, i: int) -> NDArray[Any]:
        return np.array(self._array[i])


class _Streamed:
    """An array in an archive, read from its beginning to its end."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self.where = f"{archive.filename}: {name}"
        self._archive, self._name = archive, name
        with unpacking(self.where), archive.open(name) as stream:
            self.shape, fortran, self.dtype = read_npy_header(stream, self.where)
            self._start = stream.tell()
        size = archive.getinfo(name).file_size
        self._bytes = int(np.prod(self.shape[1:], dtype=object)) * self.dtype.itemsize
        if fortran and len(self.shape) > 1:
            raise MsdmError(f"{self.where} lies column by column; unpack the archive and give the folder")
        if size != self._start + self.shape[0] * self._bytes:
            raise MsdmError(
                f"{self.where} declares {size} bytes, and an array of {self.shape} has another size: damaged"
            )
        self._stream: IO[bytes] | None = None

    def row(self, i: int) -> NDArray[Any]:
        with unpacking(self.where):
            if self._stream is None:
                self._stream = self._archive.open(self._name)
            self._stream.seek(self._start + i * self._bytes)
            data = self._stream.read(self._bytes)
        if len(data) != self._bytes:
            raise MsdmError(f"{self.where} ends within field {i}; copy the archive again")
        if i == self.shape[0] - 1:
            self._stream.close()
            self._stream = None
        row: NDArray[Any] = np.frombuffer(data, self.dtype).reshape(self.shape[1:])
        return row


def _merge(planes: list[NDArray[Any]]) -> tuple[NDArray[np.int32], dict[int, str], int]:
    """One label map of the classes' planes; the later wins, and an id of two classes is two instances."""
    labels = np.zeros(planes[0].shape, np.int32)
    classes: dict[int, str] = {}
    free = max(int(plane.max()) for plane in planes) + 1
    for name, plane in zip(CLASSES, planes, strict=True):
        for label in np.unique(plane[plane > 0]).tolist():
            new = label
            if label in classes:
                new, free = free, free + 1
            labels[plane == label] = new
            classes[new] = name
    present = set(np.unique(labels).tolist())
    return labels, classes, len(set(classes) - present)
