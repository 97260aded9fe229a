"""Pictures of a report, as PNG: one, rows of several, and contact sheets of painted fields."""

import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from ...core.errors import MsdmError
from ...core.images import RawImage
from ...core.pictures import SheetRow, contact_sheet, kind_colours

_NAMES = {
    (255, 222, 0): "yellow", (0, 190, 230): "cyan", (0, 158, 115): "green", (213, 94, 0): "orange",
    (0, 60, 160): "blue", (0, 0, 0): "black",
}  # fmt: skip
_TYPE, _GAP, _INK, _WHITE = 16, 8, (30, 30, 30), (255, 255, 255)


def png(picture: RawImage, side: int | None = None) -> bytes:
    """A picture as PNG.

    Parameters
    ----------
    picture : ndarray (H, W, 3) uint8
    side : int or None
        Longest side in pixels; a larger picture is made smaller. None leaves it.
    """
    image = Pillow.fromarray(picture)
    if side is not None:
        image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def sheet(rows: Sequence[SheetRow], title: str = "", side: int | None = 1600) -> bytes:
    """`core.pictures.contact_sheet` as PNG: real image, masks, painting, and painting with outlines.

    Parameters
    ----------
    rows : sequence of SheetRow
        At least one.
    title : str
    side : int or None
        As of `png`, of the width: a sheet may be as long as it needs.
    """
    picture = contact_sheet(rows, title=title)
    if side is not None and picture.shape[1] > side:
        longest = round(max(picture.shape[:2]) * side / picture.shape[1])
        return png(picture, longest)
    return png(picture)


def tiles(
    rows: Sequence[Sequence[RawImage]], columns: Sequence[str], captions: Sequence[str], side: int = 256
) -> bytes:
    """Rows of pictures with a head over each column and a caption under each row, as PNG.

    Parameters
    ----------
    rows : sequence of sequences of ndarray (H, W, 3) uint8
        Each as long as `columns`; sizes may differ.
    columns, captions : sequence of str
        Cut where there is no room. As many captions as rows.
    side : int
        Of a tile, in pixels; a picture is made to fit, and a small one larger by a whole factor.

    Raises
    ------
    MsdmError
        There are no rows, or their lengths do not fit.
    """
    if not rows or any(len(row) != len(columns) for row in rows) or len(captions) != len(rows):
        raise MsdmError("pictures in rows need one row at least, a picture per column and a caption per row")
    line = round(1.6 * _TYPE)
    width = _GAP + (side + _GAP) * len(columns)
    fitted = [[_fitted(picture, side) for picture in row] for row in rows]
    heights = [max(picture.height for picture in row) for row in fitted]
    canvas = Pillow.new("RGB", (width, _GAP + line + sum(heights) + (line + _GAP) * len(rows)), _WHITE)
    draw = ImageDraw.Draw(canvas)
    for j, name in enumerate(columns):
        _write(draw, name, (_GAP + (side + _GAP) * j, _GAP), side)
    top = _GAP + line
    for row, height, caption in zip(fitted, heights, captions, strict=True):
        for j, picture in enumerate(row):
            canvas.paste(picture, (_GAP + (side + _GAP) * j, top))
        _write(draw, caption, (_GAP, top + height + _GAP // 2), width - 2 * _GAP)
        top += height + line + _GAP
    return png(np.asarray(canvas))


def outline_words(kinds: Iterable[str]) -> str:
    """The colours of outlines in words: ``nucleus yellow, cell cyan``."""
    colours = kind_colours(kinds).items()
    return ", ".join(f"{kind} {_NAMES[colour]}" for kind, colour in colours)


def _fitted(picture: RawImage, side: int) -> Pillow.Image:
    factor = max(1, side // max(picture.shape[:2]))
    image = Pillow.fromarray(picture.repeat(factor, axis=0).repeat(factor, axis=1))
    image.thumbnail((side, side))
    return image


def _write(draw: ImageDraw.ImageDraw, text: str, at: tuple[int, int], room: int) -> None:
    font = ImageFont.load_default(size=_TYPE)
    text = " ".join(text.split())[:200]
    while text and font.getlength(text) > room:
        text = text[:-2].rstrip("… ") + "…" if len(text) > 2 else ""
    draw.text(at, text, fill=_INK, font=font)
