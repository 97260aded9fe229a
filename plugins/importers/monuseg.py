"""MoNuSeg and others of Aperio ImageScope: an XML file of regions per picture (Kumar et al. 2017)."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import MsdmError
from .base import Content, ForeignField, Importer
from .canvas import Canvas
from .raster import Points
from .reading import check_size, head, picture_size, read_picture
from .source import Source

MAX_XML = 2**31
_ELLIPSE = "2"
_NO_AREA = ("3", "4")  # arrow, ruler


class MoNuSeg(Importer):
    """`<Annotations>` of layers of regions of vertices, along pixel corners.

    A layer's name, or else that of its first attribute, is the class of its regions (as MoNuSAC has it). A
    negative region (`NegativeROA`) is cut out of those before it. Arrows, rulers, and regions of fewer than
    three vertices have no area and are left out.
    """

    looks_for = "ImageScope's x.xml"

    def detect(self, source: Source) -> bool:
        return any(_is_imagescope(path) for path in source.glance)

    def fields(self, source: Source) -> Iterator[ForeignField]:
        for path in source.files(".xml"):
            if _is_imagescope(path):
                image = source.need_image(path, path.stem)
                yield ForeignField(path.stem, source.relative(path), partial(_read, path, image, source.kind))


def _is_imagescope(path: Path) -> bool:
    return path.suffix.lower() == ".xml" and b"<Annotations" in head(path)


def _read(path: Path, image: Path, kind: str) -> Content:
    canvas = Canvas(picture_size(image), str(path))
    label = 0
    for points, name, negative in _regions(path):
        if negative:
            canvas.erase([points])
            continue
        label += 1
        canvas.polygons(kind, label, [[points]])
        if name:
            canvas.name(kind, label, name)
    return canvas.content(read_picture(image))


def _regions(path: Path) -> Iterator[tuple[Points, str, bool]]:
    """Vertices of each region, its class, and whether it is cut out."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, iterparse

    check_size(path, MAX_XML, "split it")
    name = ""
    try:
        # No entities and no DTD: neither a bomb nor a look at another file.
        for event, element in iterparse(str(path), events=("start", "end"), forbid_dtd=True):
            if event == "start" and element.tag == "Annotation":
                name = element.get("Name") or ""
            elif event == "end" and element.tag == "Attribute":
                # a layer's own come before its regions; those of a region have no name of their own
                stated = element.get("Value") if element.get("Name") == "Description" else element.get("Name")
                name = name or stated or ""
            elif event == "end" and element.tag == "Region":
                if element.get("Type") == _ELLIPSE:
                    raise MsdmError(
                        f"{path}: region {element.get('Id')} is an ellipse, which is not read; trace it"
                    )
                points = _vertices(element, path)
                if element.get("Type") not in _NO_AREA and len(points) >= 3:
                    yield points, name, element.get("NegativeROA") == "1"
                element.clear()
    except DefusedXmlException:
        raise MsdmError(
            f"{path} declares a document type or entities, which is refused; take them out"
        ) from None
    except (ParseError, OSError, LookupError) as error:  # LookupError: an encoding that there is not
        raise MsdmError(f"{path} is no XML that can be read ({error}); export it again") from None


def _vertices(region: Any, path: Path) -> Points:
    try:
        points = [(float(v.get("X")), float(v.get("Y"))) for v in region.iter("Vertex")]
    except (TypeError, ValueError):
        raise MsdmError(
            f"{path}: region {region.get('Id')} has a vertex without numbers X and Y; export it again"
        ) from None
    return np.array(points, dtype=np.float64).reshape(-1, 2)
