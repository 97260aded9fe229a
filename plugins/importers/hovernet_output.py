"""What HoVer-Net writes for tiles: `mat/x.mat`, `json/x.json` (Graham et al. 2019, arXiv 1812.06499)."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import MsdmError
from .base import Content, ForeignField, Importer
from .canvas import Canvas, rings
from .matlab import read_mat
from .reading import head, picture_size, read_json, read_picture
from .source import Source

TYPE_INFO = "type_info.json"


def is_output(path: Path) -> bool:
    """Whether a .mat file was written by HoVer-Net, and is no ground truth: by its folder."""
    return path.parent.name == "mat"


class HoVerNetOutput(Importer):
    """Instance maps of `mat/`, or contours of `json/` where there is no such .mat.

    Contours are the centres of boundary pixels; holes are not in them. Names of types are read from a
    `type_info.json` beside the folders; without it, they are numbers.
    """

    looks_for = "HoVer-Net's mat/x.mat or json/x.json"

    def detect(self, source: Source) -> bool:
        return any(
            (path.suffix == ".mat" and is_output(path)) or (path.suffix == ".json" and b'"nuc"' in head(path))
            for path in source.glance
        )

    def fields(self, source: Source) -> Iterator[ForeignField]:
        matrices = [path for path in source.files(".mat") if is_output(path)]
        done = {(path.parent.parent, path.stem) for path in matrices}
        for path in matrices:
            names = type_names(source, path)
            read = partial(read_matrix, path, source.find_image(path, path.stem), names, source.kind)
            yield ForeignField(path.stem, source.relative(path), read)
        for path in source.files(".json"):
            if b'"nuc"' in head(path) and (path.parent.parent, path.stem) not in done:
                names = type_names(source, path)
                read = partial(_read_json, path, source.need_image(path, path.stem), names, source.kind)
                yield ForeignField(path.stem, source.relative(path), read)


def read_matrix(path: Path, image: Path | None, names: Mapping[int, str], kind: str) -> Content:
    """The content of a .mat, which CoNSeP's ground truth has in common with the output.

    Parameters
    ----------
    path : Path
    image : Path or None
    names : mapping int -> str
        Classes by type; a type that is not in it is called by its number.
    kind : str
        Mask kind of the instances.
    """
    labels, types = read_mat(path)
    classes = {kind: {label: names.get(number, str(number)) for label, number in types.items()}}
    return Content(read_picture(image) if image else None, {kind: labels}, classes)


def _read_json(path: Path, image: Path, names: Mapping[int, str], kind: str) -> Content:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("nuc"), dict):
        raise MsdmError(f"{path} has no object nuc; it is not of HoVer-Net")
    canvas = Canvas(picture_size(image), str(path))
    for key, nucleus in content["nuc"].items():
        label, points, number = _nucleus(key, nucleus, path)
        canvas.contour(kind, label, points)
        if number:
            canvas.name(kind, label, names.get(number, str(number)))
    return canvas.content(read_picture(image))


def _nucleus(key: str, nucleus: Any, path: Path) -> tuple[int, Any, int]:
    if not isinstance(nucleus, dict) or not key.isascii() or not key.isdigit() or not 0 < int(key) < 2**31:
        raise MsdmError(f"{path}: nucleus {key!r:.40} is not of HoVer-Net; its keys are numbers from 1")
    number = nucleus.get("type")
    points = nucleus.get("contour") or np.empty((0, 2)).tolist()
    ring = rings([points], f"{path}: nucleus {key}")[0] if points else np.empty((0, 2))
    return int(key), ring, number if isinstance(number, int) else 0


def type_names(source: Source, path: Path) -> dict[int, str]:
    """Names of types from the nearest `type_info.json` above a file, within the source."""
    for folder in path.parents[:2]:
        info = folder / TYPE_INFO
        if info.is_file() and folder.is_relative_to(source.root):
            content = read_json(info)
            try:
                return {int(number): str(entry[0]) for number, entry in content.items()}
            except (AttributeError, ValueError, TypeError, IndexError, KeyError):
                raise MsdmError(
                    f'{info} must map numbers to [name, colour], such as {{"1": ["round", ...]}}'
                ) from None
    return {}
