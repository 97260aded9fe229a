"""Pictures for people: outlines over images, masks as pictures, and contact sheets of painted fields."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from .errors import MsdmError
from .files import atomic_write
from .images import RawImage, to_uint8
from .sample import Image, Labels, instance_edges

Colour = tuple[int, int, int]
_Number = TypeVar("_Number", bound=np.generic)

# Yellow and cyan keep apart from pink and purple, and from each other without red-green vision.
_FIXED: dict[str, Colour] = {"nucleus": (255, 222, 0), "cell": (0, 190, 230)}
_OTHERS: tuple[Colour, ...] = ((0, 158, 115), (213, 94, 0), (0, 60, 160), (0, 0, 0))

_COLUMNS = ("real", "condition", "synthetic", "synthetic + outlines")
_SMALLEST = 192
_WHITE, _INK, _GREY, _TILE = (255, 255, 255), (30, 30, 30), (95, 95, 95), (226, 226, 226)


def outlines(labels: Labels) -> NDArray[np.bool_]:
    """The inner boundaries of instances.

    Parameters
    ----------
    labels : ndarray (H, W) int32
        Instances, 0 is background.

    Returns
    -------
    ndarray (H, W) bool
        True on the pixels of an instance that have a 4-neighbour with another label, background included.
        The edge of the field is no boundary. Where two instances touch, both are outlined.
    """
    return instance_edges(labels) & (labels > 0)


def kind_colours(kinds: Iterable[str]) -> dict[str, Colour]:
    """A colour per mask kind: nuclei yellow, cells cyan, the others in alphabetical order."""
    kinds = sorted(set(kinds))
    others = [kind for kind in kinds if kind not in _FIXED]
    taken = {kind: _OTHERS[i % len(_OTHERS)] for i, kind in enumerate(others)}
    return {kind: _FIXED[kind] if kind in _FIXED else taken[kind] for kind in kinds}


def overlay(
    image: RawImage, masks: Mapping[str, Labels], colours: Mapping[str, Colour] | None = None
) -> RawImage:
    """An image with the outlines of the instances, one pixel wide.

    Parameters
    ----------
    image : ndarray (H, W, 3) uint8
    masks : mapping kind -> ndarray (H, W) int32
        The kind that covers least is drawn last, on top.
    colours : mapping kind -> (R, G, B), or None
        By default those of `kind_colours`.

    Returns
    -------
    ndarray (H, W, 3) uint8
        A copy.

    Raises
    ------
    MsdmError
        A mask has another size than the image.
    """
    colours = kind_colours(masks) if colours is None else colours
    picture = image.copy()
    for kind, labels in _largest_first(masks):
        _check_size(kind, labels, image.shape[:2])
        picture[outlines(labels)] = colours[kind]
    return picture


def condition_picture(masks: Mapping[str, Labels], colours: Mapping[str, Colour] | None = None) -> RawImage:
    """The masks alone, on white: instances filled with a light colour and outlined.

    Parameters
    ----------
    masks : mapping kind -> ndarray (H, W) int32
        At least one. The kind that covers least is drawn last, on top.
    colours : mapping kind -> (R, G, B), or None
        By default those of `kind_colours`.

    Returns
    -------
    ndarray (H, W, 3) uint8

    Raises
    ------
    MsdmError
        There are no masks, or they differ in size.
    """
    if not masks:
        raise MsdmError("there are no masks to draw; give one kind at least")
    colours = kind_colours(masks) if colours is None else colours
    size = next(iter(masks.values())).shape
    picture = np.full((*size, 3), 255, np.uint8)
    for kind, labels in _largest_first(masks):
        _check_size(kind, labels, size)
        picture[labels > 0] = _light(colours[kind])
        picture[outlines(labels)] = _dark(colours[kind])
    return picture


@dataclass(frozen=True)
class SheetRow:
    """One field of a contact sheet.

    Attributes
    ----------
    caption : str
        One line; cut where it is wider than the sheet.
    real : ndarray (3, H, W) float32 in [-1, 1], or None
        The real image of the masks.
    masks : mapping kind -> ndarray (H, W) int32
        Of the size of `synthetic`; may be empty.
    synthetic : ndarray (3, H, W) float32 in [-1, 1]
        The painting.
    """

    caption: str
    real: Image | None
    masks: Mapping[str, Labels]
    synthetic: Image


def contact_sheet(rows: Sequence[SheetRow], *, title: str = "") -> RawImage:
    """Fields under each other, as real image, masks, painting, and painting with outlines.

    Tiles whose longer side is below 192 pixels are enlarged by a whole factor, pixel by pixel; smaller fields
    among larger ones are padded with white.

    Parameters
    ----------
    rows : sequence of SheetRow
        At least one. All are drawn: the caller limits their number.
    title : str
        Printed on top.

    Returns
    -------
    ndarray (height, width, 3) uint8

    Raises
    ------
    MsdmError
        There are no rows, a mask does not fit its painting, or an image is not (3, H, W) and finite.
    """
    if not rows:
        raise MsdmError("there are no fields to put on a contact sheet; give one at least")
    colours = kind_colours(kind for row in rows for kind in row.masks)
    tiles = [_tiles(row, colours) for row in rows]
    widths = [max(row[i].shape[1] for row in tiles) for i in range(len(_COLUMNS))]
    heights = [max(tile.shape[0] for tile in row) for row in tiles]
    # Text grows with the sheet, which is shown scaled to the width of a page.
    size = max(14, sum(widths) // 72)
    gap, line = size // 2, round(1.6 * size)
    lefts = [gap + sum(widths[:i]) + gap * i for i in range(len(widths))]
    width = lefts[-1] + widths[-1] + gap

    head = bool(title or colours)
    top = gap + (round(1.6 * line) if head else 0)
    canvas = Pillow.new("RGB", (width, top + line + sum(heights) + (line + gap) * len(rows)), _WHITE)
    draw = ImageDraw.Draw(canvas)
    right = _draw_legend(draw, colours, right=width - gap, top=gap, size=size)
    _draw_text(draw, title, (gap, gap), right - 3 * gap, round(1.3 * size), _INK)
    for name, left, tile_width in zip(_COLUMNS, lefts, widths, strict=True):
        _draw_text(draw, name, (left, top), tile_width, size, _INK)
    top += line
    for row, pictures, height in zip(rows, tiles, heights, strict=True):
        for picture, left in zip(pictures, lefts, strict=True):
            canvas.paste(Pillow.fromarray(picture), (left, top))
        _draw_text(draw, row.caption, (gap, top + height + gap // 3), width - 2 * gap, size, _GREY)
        top += height + line + gap
    return np.array(canvas)


def save_sheet(path: str | os.PathLike[str], rows: Sequence[SheetRow], title: str = "") -> None:
    """Write a contact sheet as RGB PNG, under a temporary name that is renamed.

    Parameters
    ----------
    path : path
        A file that is there is replaced.
    rows : sequence of SheetRow
    title : str

    Raises
    ------
    MsdmError
        As `contact_sheet`, or the file cannot be written.
    """
    picture = Pillow.fromarray(contact_sheet(rows, title=title))
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")


def _tiles(row: SheetRow, colours: Mapping[str, Colour]) -> tuple[RawImage, RawImage, RawImage, RawImage]:
    """One picture per column. Enlarged before they are outlined, so that outlines stay one pixel wide."""
    synthetic = to_uint8(row.synthetic)
    for kind, labels in row.masks.items():
        _check_size(kind, labels, synthetic.shape[:2])
    factor = _factor(synthetic.shape[:2])
    synthetic = _enlarge(synthetic, factor)
    masks = {kind: _enlarge(labels, factor) for kind, labels in row.masks.items()}
    if row.real is None:
        real = _blank(synthetic.shape[:2], "no real image")
    else:
        real = to_uint8(row.real)
        real = _enlarge(real, _factor(real.shape[:2]))
    condition = condition_picture(masks, colours) if masks else _blank(synthetic.shape[:2], "no masks")
    return real, condition, synthetic, overlay(synthetic, masks, colours)


def _largest_first(masks: Mapping[str, Labels]) -> list[tuple[str, Labels]]:
    return sorted(masks.items(), key=lambda item: (-int(np.count_nonzero(item[1])), item[0]))


def _check_size(kind: str, labels: Labels, size: tuple[int, ...]) -> None:
    if labels.shape != tuple(size):
        raise MsdmError(
            f"the {kind!r} mask has shape {labels.shape}, and its picture has {tuple(size)}; "
            f"give masks of the size of the picture"
        )


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    r, g, b = (round(c + share * (o - c)) for c, o in zip(colour, other, strict=True))
    return r, g, b


def _light(colour: Colour) -> Colour:
    return _mix(colour, _WHITE, 0.6)


def _dark(colour: Colour) -> Colour:
    return _mix(colour, (0, 0, 0), 0.4)


def _factor(size: tuple[int, ...]) -> int:
    return max(1, -(-_SMALLEST // max(size)))


def _enlarge(array: NDArray[_Number], factor: int) -> NDArray[_Number]:
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def _blank(size: tuple[int, ...], words: str) -> RawImage:
    """A grey tile with centred words."""
    height, width = size
    tile = Pillow.new("RGB", (width, height), _TILE)
    font = ImageFont.load_default(size=max(14, width // 18))
    ImageDraw.Draw(tile).text((width / 2, height / 2), words, fill=_GREY, font=font, anchor="mm")
    return np.array(tile)


def _draw_text(
    draw: ImageDraw.ImageDraw, text: str, at: tuple[float, float], room: float, size: int, colour: Colour
) -> None:
    """One line, cut to `room` pixels."""
    font = ImageFont.load_default(size=size)
    text = " ".join(text.split())
    if font.getlength(text) > room:
        # By halving: the time to measure a text grows with its length.
        fits, beyond = 0, len(text)
        while beyond - fits > 1:
            middle = (fits + beyond) // 2
            if font.getlength(text[:middle].rstrip() + "...") <= room:
                fits = middle
            else:
                beyond = middle
        text = text[:fits].rstrip() + "..." if fits else ""
    draw.text(at, text, fill=colour, font=font)


def _draw_legend(
    draw: ImageDraw.ImageDraw, colours: Mapping[str, Colour], right: float, top: float, size: int
) -> float:
    """A swatch and a name per kind, ending at `right`; returns where they begin."""
    font = ImageFont.load_default(size=size)
    for kind in reversed(list(colours)):
        right -= font.getlength(kind)
        draw.text((right, top), kind, fill=_INK, font=font)
        right -= 1.4 * size
        box = (right, top + size * 0.15, right + size, top + size * 1.15)
        draw.rectangle(box, fill=colours[kind], outline=_dark(colours[kind]), width=max(1, size // 8))
        right -= size
    return right
