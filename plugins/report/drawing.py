"""SVG of a figure, read and written anew with what is harmless in it, so that it can stand within a page."""

import re
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from ...core.errors import MsdmError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"

# No style element: its rules would hold for the whole page. No a, animate, foreignObject, script.
_ELEMENTS = frozenset({
    "g", "defs", "clipPath", "mask", "pattern", "linearGradient", "radialGradient", "stop", "path",
    "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan", "use", "image", "title",
    "desc",
})  # fmt: skip
_PROPERTIES = frozenset({
    "fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-linecap",
    "stroke-linejoin", "stroke-dasharray", "stroke-dashoffset", "stroke-miterlimit", "opacity", "color",
    "visibility", "font", "font-family", "font-size", "font-style", "font-weight", "text-anchor",
    "dominant-baseline", "alignment-baseline", "letter-spacing", "clip-path", "clip-rule", "mask",
    "stop-color", "stop-opacity",
})  # fmt: skip
_ATTRIBUTES = _PROPERTIES | frozenset({
    "id", "style", "transform", "d", "x", "y", "x1", "y1", "x2", "y2", "dx", "dy", "cx", "cy", "r", "rx",
    "ry", "fx", "fy", "width", "height", "points", "offset", "viewBox", "preserveAspectRatio",
    "clipPathUnits", "maskUnits", "maskContentUnits", "patternUnits", "patternContentUnits",
    "patternTransform", "gradientUnits", "gradientTransform", "spreadMethod",
})  # fmt: skip
_PNG_DATA = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=\s]+")
_OWN_URL = re.compile(r"""url\(\s*['"]?#([^)'"]+)['"]?\s*\)""")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_LENGTH = re.compile(rf"\s*({_NUMBER})\s*(pt|px|in|mm|cm)?\s*")
_BOX = re.compile(rf"\s*({_NUMBER})" + rf"[\s,]+({_NUMBER})" * 3 + r"\s*")
_PIXELS = {"pt": 96 / 72, "px": 1.0, "in": 96.0, "mm": 96 / 25.4, "cm": 96 / 2.54, None: 1.0}


@dataclass(frozen=True)
class Drawing:
    """What of an SVG goes into a page.

    Attributes
    ----------
    view_box : str
    width : int
        In CSS pixels, at its natural size.
    inner : str
        All within the ``svg`` element, escaped.
    follows_theme : bool
        Whether its colours are the page's: it has ``currentColor`` or ``var(--...)``.
    """

    view_box: str
    width: int
    inner: str
    follows_theme: bool


def read_svg(content: bytes, name: str, *, prefix: str) -> Drawing:
    """Read an SVG and keep what draws: no scripts, no style sheets, no references out of it.

    Parameters
    ----------
    content : bytes
    name : str
        For messages.
    prefix : str
        Before every id, so that ids of several drawings differ on a page.

    Raises
    ------
    MsdmError
        It is no SVG, or has no size.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        root = fromstring(content)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise MsdmError(
            f"the content of figure {name!r} is neither PNG nor readable SVG ({error}); give one of them"
        ) from None
    if root.tag not in (f"{_SVG}svg", "svg"):
        raise MsdmError(f"the content of figure {name!r} is XML but not SVG; give PNG or SVG")
    width, view_box = _size(root, name)
    inner = "".join(_written(child, prefix) for child in root)
    return Drawing(view_box, width, inner, "currentColor" in inner or "var(--" in inner)


def _size(root: "Element", name: str) -> tuple[int, str]:
    box = _BOX.fullmatch(root.get("viewBox", ""))
    length = _LENGTH.fullmatch(root.get("width", ""))
    height = _LENGTH.fullmatch(root.get("height", ""))
    if not box and length and height:
        return round(float(length[1]) * _PIXELS[length[2]]), f"0 0 {length[1]} {height[1]}"
    if not box:
        raise MsdmError(f"the SVG of figure {name!r} has no viewBox; write one")
    across = float(length[1]) * _PIXELS[length[2]] if length else float(box[3]) * _PIXELS["pt"]
    return max(1, round(across)), " ".join(box.groups())


def _written(element: "Element", prefix: str) -> str:
    tag = str(element.tag).removeprefix(_SVG)
    if tag not in _ELEMENTS:
        return ""
    attributes = "".join(f' {key}="{escape(value)}"' for key, value in _attributes(element, prefix))
    inner = "".join(_written(child, prefix) + escape(child.tail or "") for child in element)
    return f"<{tag}{attributes}>{escape(element.text or '')}{inner}</{tag}>"


def _attributes(element: "Element", prefix: str) -> list[tuple[str, str]]:
    kept = []
    for key, value in element.attrib.items():
        if key in ("href", f"{_XLINK}href"):
            if value.startswith("#"):
                kept.append(("href", f"#{prefix}{value[1:]}"))
            elif _PNG_DATA.fullmatch(value):
                kept.append(("href", re.sub(r"\s", "", value)))
        elif key == "id":
            kept.append((key, prefix + value))
        elif key == "style":
            declarations = (text.partition(":") for text in value.split(";"))
            pairs = [(name.strip(), text.strip()) for name, _, text in declarations]
            safe = {name: _safe(text, prefix) for name, text in pairs if name in _PROPERTIES}
            kept.append((key, "; ".join(f"{name}: {text}" for name, text in safe.items() if text)))
        elif key in _ATTRIBUTES and (text := _safe(value, prefix)):
            kept.append((key, text))
    return [(key, value) for key, value in kept if value]


def _safe(value: str, prefix: str) -> str:
    """A value that refers to nothing but ids of its own drawing; empty where it does."""
    own = _OWN_URL.sub(lambda found: f"url(#{prefix}{found[1]})", value)
    # a backslash can spell url in CSS
    foreign = re.search(r"url\((?!#)|image\(|image-set|expression|\\", own, re.IGNORECASE)
    return "" if foreign else own
