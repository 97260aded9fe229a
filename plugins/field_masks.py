"""The masks of one large field, from label TIFFs and GeoJSON, kept in files and not in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import MsdmError
from ..core.mapped import scratch_array
from ..core.sample import Labels
from ..core.tiff import check_chain
from .importers.canvas import Canvas
from .importers.qupath import draw, extent, read_features
from .importers.reading import check_pixels, read_label_map, whole

MAX_PIXELS = 2**33
"""Of a field."""
SMALL, MOST_PACKED = 2**26, 2**12
"""Pixels that any file may declare, and pixels per byte of a larger one; Deflate packs 1032 bytes in one."""
_BAND = 1024
"""Rows that are read at once where the file allows it."""


@dataclass(frozen=True)
class FieldMasks:
    """The masks of a field.

    Attributes
    ----------
    masks : mapping kind -> ndarray (H, W) int32
        Memory-mapped scratch files.
    pixel_size : float or None
        Micrometres, where a file says so.
    """

    masks: Mapping[str, Labels]
    pixel_size: float | None = None
    classes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def read_field_masks(
    sources: Sequence[tuple[str, Path]], folder: Path, size: tuple[int, int] | None = None
) -> FieldMasks:
    """Read the masks of a field.

    Parameters
    ----------
    sources : sequence of (kind, path)
        Label maps (TIFF, OME-TIFF of any size; PNG), or GeoJSON, whose cells and nuclei are of the kinds that
        it says, and all other outlines of `kind`.
    folder : Path
        Where the scratch files are.
    size : (int, int) or None
        Height and width of a field of GeoJSON alone; None: up to the last outline.

    Raises
    ------
    MsdmError
        A file cannot be read, two give one kind, or they differ in size.
    """
    found: dict[str, tuple[Path, Labels]] = {}
    classes: dict[str, Mapping[int, str]] = {}
    pixel_size = None
    outlines = [(kind, path) for kind, path in sources if path.suffix.lower() in (".geojson", ".json")]
    for kind, path in sources:
        if (kind, path) not in outlines:
            labels, micrometres = _read_labels(path, folder)
            pixel_size = pixel_size or micrometres
            _add(found, kind, path, labels)
            size = size or (int(labels.shape[0]), int(labels.shape[1]))
    for kind, path in outlines:
        features = read_features(path)
        size = size or extent(features, path)
        _check_size(size, path)
        canvas = Canvas(size, str(path), partial(_flat, folder))
        draw(features, canvas, path, kind)
        for drawn, labels in canvas.masks.items():
            _add(found, drawn, path, labels)
        classes |= canvas.classes
    if size is None or not found:
        raise MsdmError(f"{sources[0][1]} has no instance; give masks with one at least")
    for path, labels in found.values():
        if labels.shape != size:
            raise MsdmError(
                f"{path} is {labels.shape[0]} x {labels.shape[1]}, and the field is {size[0]} x {size[1]}; "
                f"give every kind one height and width"
            )
    return FieldMasks({kind: labels for kind, (_, labels) in found.items()}, pixel_size, classes)


def _flat(folder: Path, count: int) -> NDArray[np.int32]:
    return scratch_array((count,), np.int32, folder)


def _add(found: dict[str, tuple[Path, Labels]], kind: str, path: Path, labels: Labels) -> None:
    if kind in found:
        raise MsdmError(f"{found[kind][0]} and {path} both give {kind!r} masks; name each kind once")
    found[kind] = (path, labels)


def _check_size(size: tuple[int, int], path: Path, *, held: bool = False) -> None:
    """Refuse a size before there is an array of it; `held`: the file is one that holds the pixels."""
    if held and size[0] * size[1] > max(SMALL, MOST_PACKED * path.stat().st_size):
        raise MsdmError(
            f"{path} says it is {size[0]} x {size[1]}, which its {path.stat().st_size} bytes cannot hold; "
            f"save it again"
        )
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise MsdmError(f"{path} is {size[0]} x {size[1]}; a field has 1 to {MAX_PIXELS} pixels")


def _read_labels(path: Path, folder: Path) -> tuple[Labels, float | None]:
    if path.suffix.lower() not in (".tif", ".tiff"):
        return read_label_map(path).astype(np.int32, copy=False), None
    import tifffile

    if not path.is_file():
        raise MsdmError(f"{path} is missing; put the file there")
    try:
        check_chain(path)
        with tifffile.TiffFile(path) as tif:
            return _copy(tif, path, folder), _pixel_size(tif.ome_metadata)
    except MsdmError:
        raise
    # what tifffile raises on a damaged file depends on where the damage lies
    except Exception as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise MsdmError(f"{path} is no TIFF, or damaged ({cause}); save it again") from None


def _copy(tif: Any, path: Path, folder: Path) -> Labels:
    """The labels of a file, copied part by part."""
    series = tif.series[0]
    page = series.keyframe
    size = (int(page.imagelength), int(page.imagewidth))
    if len(tif.series) > 1 or tuple(n for n in series.shape if n > 1) != tuple(n for n in size if n > 1):
        raise MsdmError(
            f"{path} holds pictures of shape {series.shape}; a label map has one channel of one picture"
        )
    if page.dtype is None or page.dtype.kind not in "bui":
        raise MsdmError(f"{path} has numbers of type {page.dtype}; labels are whole numbers from 0")
    _check_size(size, path, held=True)
    _check_parts(page, path)
    labels: NDArray[np.int32] = scratch_array(size, np.int32, folder)
    if page.is_memmappable:
        stored = np.memmap(
            path, dtype=tif.byteorder + page.dtype.char, mode="r", offset=page.dataoffsets[0], shape=size
        )
        for top in range(0, size[0], _BAND):
            labels[top : top + _BAND] = whole(np.asarray(stored[top : top + _BAND]), str(path))
        return labels
    for part, (_, _, top, left, _), (_, height, width, _) in page.segments():
        if part is not None:
            fits = min(height, size[0] - top), min(width, size[1] - left)
            values = whole(part[0, : fits[0], : fits[1], 0], str(path))
            labels[top : top + fits[0], left : left + fits[1]] = values
    return labels


def _check_parts(page: Any, path: Path) -> None:
    """Refuse strips or tiles that are not in the file, or too large, before memory is asked for them."""
    end = path.stat().st_size
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if start + count > end:
            raise MsdmError(f"{path} has {end} bytes, and pixels beyond them: it is cut short; copy it again")
    if page.is_tiled:
        check_pixels((int(page.tilelength), int(page.tilewidth)), f"{path}: a tile")


def _pixel_size(description: str | None) -> float | None:
    """Micrometres of a pixel in an OME-XML description; None where it says nothing of that kind."""
    if not description:
        return None
    from defusedxml import ElementTree

    try:
        root = ElementTree.fromstring(description)
    except Exception as error:  # what a parser raises on what is no XML, or has entities
        raise ValueError(f"its OME-XML cannot be read: {error}") from None
    for element in root.iter():
        if element.tag.rpartition("}")[2] == "Pixels":
            value = float(element.get("PhysicalSizeX") or 0)
            if element.get("PhysicalSizeXUnit", "µm") == "µm" and 0 < value < 1e6:
                return value
    return None
