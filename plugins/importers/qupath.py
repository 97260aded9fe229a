"""QuPath: GeoJSON of cells, detections or annotations (Bankhead et al. 2017), from 0.2 on."""

import math
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...core.errors import MsdmError
from .base import Content, ForeignField, Importer
from .canvas import Canvas, rings
from .raster import Points
from .reading import head, picture_size, read_json, read_picture
from .source import Source

_FEATURE = re.compile(rb'"type"\s*:\s*"Feature(Collection)?"')
_KINDS = ("cell", "detection", "annotation")
# What 0.2 and 0.3 write as the id of every object.
_LEGACY = {"PathCellObject": "cell", "PathDetectionObject": "detection", "PathAnnotationObject": "annotation"}


class QuPath(Importer):
    """A GeoJSON file per picture: a FeatureCollection, or the bare list of QuPath 0.2 and 0.3.

    Where there are cells, they alone are taken, otherwise detections, otherwise annotations: regions drawn
    round them are no instances. A cell with a `nucleusGeometry` gives a cell and a nucleus of one label;
    detections of the name ``nucleus`` beside cells are nuclei without a cell.
    The picture has the name of the file, or its beginning (`a.png` for `a_cells.geojson`).
    """

    looks_for = "x.geojson of QuPath"

    def detect(self, source: Source) -> bool:
        return any(_is_geojson(path) for path in source.glance)

    def fields(self, source: Source) -> Iterator[ForeignField]:
        for path in source.files(".geojson", ".json"):
            if _is_geojson(path):
                image = source.need_image(path, path.stem, prefix=True)
                yield ForeignField(path.stem, source.relative(path), partial(_read, path, image, source.kind))


def _is_geojson(path: Path) -> bool:
    if path.suffix.lower() == ".geojson":
        return True
    start = head(path)
    return (
        path.suffix.lower() == ".json" and start.lstrip()[:1] in (b"{", b"[") and bool(_FEATURE.search(start))
    )


def _read(path: Path, image: Path, kind: str) -> Content:
    canvas = Canvas(picture_size(image), str(path))
    draw(read_features(path), canvas, path, kind)
    return canvas.content(read_picture(image))


def read_features(path: Path) -> list[dict[str, Any]]:
    """The features of a GeoJSON file.

    Raises
    ------
    MsdmError
        It cannot be read, or has none.
    """
    content = read_json(path)
    features = content.get("features") if isinstance(content, dict) else content
    if isinstance(content, dict) and content.get("type") == "Feature":
        features = [content]
    if not isinstance(features, list) or not all(isinstance(f, dict) for f in features):
        raise MsdmError(f"{path} has no list of features; export it from QuPath as GeoJSON")
    return features


def extent(features: list[dict[str, Any]], path: Path) -> tuple[int, int]:
    """Height and width in pixels that hold all instances, from the origin."""
    boxes = [_box(_polygons(f.get("geometry"), str(path))) for _, _, f in _instances(features, path)]
    ends = [(box[3], box[2]) for box in boxes if all(map(math.isfinite, box))]
    return math.ceil(max((y for y, _ in ends), default=0)), math.ceil(max((x for _, x in ends), default=0))


def draw(features: list[dict[str, Any]], canvas: Canvas, path: Path, kind: str) -> None:
    """Draw the instances of a file: cells and nuclei as they say, all others as `kind`.

    Raises
    ------
    MsdmError
        Coordinates are no numbers.
    """
    for label, (object_type, name, feature) in enumerate(_instances(features, path), 1):
        where = f"{path}: feature {label}"
        nucleus = feature.get("nucleusGeometry")
        outer = "cell" if object_type == "cell" else "nucleus" if _is_nucleus(object_type, feature) else kind
        for which, geometry in ((outer, feature.get("geometry")), ("nucleus", nucleus)):
            parts = _polygons(geometry, where)
            if parts:
                canvas.polygons(which, label, parts)
                if name:
                    canvas.name(which, label, name)


def _instances(features: list[dict[str, Any]], path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Type, class and feature of what is an instance."""
    described = [(_type(f), _class(f, path), f) for f in features]
    described = [d for d in described if d[0] in _KINDS and not d[1].endswith("*") and _has_area(d[2])]
    wanted = next((kind for kind in _KINDS if any(d[0] == kind for d in described)), "annotation")
    chosen = [d for d in described if d[0] == wanted or (wanted == "cell" and _is_nucleus(d[0], d[2]))]
    if wanted != "annotation":
        yield from chosen
        return
    boxes = [_box(_polygons(f.get("geometry"), str(path))) for _, _, f in chosen]
    for (kind, name, feature), box in zip(chosen, boxes, strict=True):
        locked = bool(_properties(feature).get("isLocked", _properties(feature).get("locked")))
        if name or not (locked or sum(_holds(box, other) for other in boxes) > 2):  # it holds itself
            yield kind, name, feature


def _is_nucleus(object_type: str, feature: dict[str, Any]) -> bool:
    return object_type == "detection" and str(_properties(feature).get("name")).lower() == "nucleus"


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def _type(feature: dict[str, Any]) -> str:
    properties = _properties(feature)
    stated = properties.get("objectType", properties.get("object_type", _LEGACY.get(str(feature.get("id")))))
    if stated is None:
        # Not of QuPath, or an id of one's own: taken for an annotation, unless it can only be a cell.
        legacy = str(feature.get("id"))
        if legacy.startswith("Path") or legacy == "TMACoreObject":
            return legacy
        return "cell" if feature.get("nucleusGeometry") else "annotation"
    return str(stated)


def _class(feature: dict[str, Any], path: Path) -> str:
    """A class as QuPath shows it: derived classes are joined by a colon."""
    found = _properties(feature).get("classification") or {}
    if isinstance(found, str):
        return found
    if not isinstance(found, dict):
        raise MsdmError(f"{path}: a classification is {found!r:.40}; it must have a name, or names")
    names = found.get("names")
    if isinstance(names, list) and names:
        return ": ".join(map(str, names))
    return str(found.get("name") or "")


def _has_area(feature: dict[str, Any]) -> bool:
    geometry = feature.get("geometry")
    return isinstance(geometry, dict) and geometry.get("type") in (
        "Polygon",
        "MultiPolygon",
        "GeometryCollection",
    )


def _polygons(geometry: Any, where: str) -> list[list[Points]]:
    """The polygons of a geometry, each an outline and its holes (RFC 7946, 3.1.6); none of a point."""
    if not isinstance(geometry, dict):
        return []
    kind = geometry.get("type")
    if kind == "Polygon":
        return [rings(geometry.get("coordinates"), where)]
    if kind == "MultiPolygon":
        polygons = geometry.get("coordinates")
        return [rings(polygon, where) for polygon in (polygons if isinstance(polygons, list) else [None])]
    if kind == "GeometryCollection" and isinstance(geometry.get("geometries"), list):
        return [polygon for part in geometry["geometries"] for polygon in _polygons(part, where)]
    return []


_Box = tuple[float, float, float, float]


def _box(parts: list[list[Points]]) -> _Box:
    corners = [ring for part in parts for ring in part if len(ring)]
    if not corners:
        return (0.0, 0.0, 0.0, 0.0)
    low = [min(float(ring[:, axis].min()) for ring in corners) for axis in (0, 1)]
    high = [max(float(ring[:, axis].max()) for ring in corners) for axis in (0, 1)]
    return (low[0], low[1], high[0], high[1])


def _holds(outer: _Box, inner: _Box) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]
