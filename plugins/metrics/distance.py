"""The largest distance between the centres of one instance, in pixels or micrometres."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ...core.errors import MsdmError
from .comparison import RADIUS

PIXEL_SIZE = "pixel_size_um"
"""The column of a manifest with the side of a pixel in micrometres."""
_TEXT = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?(px|um|µm|μm)?")


@dataclass(frozen=True)
class Distance:
    """A length.

    Attributes
    ----------
    value : float
    unit : {'px', 'um'}
    """

    value: float = RADIUS
    unit: Literal["px", "um"] = "px"

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"

    def pixels(self, pixel_size: float | None) -> float:
        """The length in pixels.

        Parameters
        ----------
        pixel_size : float or None
            Side of a pixel in micrometres.

        Raises
        ------
        MsdmError
            The length is in micrometres, and the size of a pixel is not known.
        """
        if self.unit == "px":
            return self.value
        if pixel_size is None:
            raise MsdmError(
                f"a distance of {self} needs the size of a pixel; give the manifest a column {PIXEL_SIZE}, "
                f"the distance in px or, to evaluate segmentation, --pixel-size"
            )
        return self.value / pixel_size

    def pixels_in(self, row: Mapping[str, str], where: str, pixel_size: float | None = None) -> float:
        """The length in pixels of a field.

        Parameters
        ----------
        row : mapping
            Of a manifest, whose column ``pixel_size_um`` counts for a length in micrometres.
        where : str
            Where it stands, for the message.
        pixel_size : float or None
            In the place of that column.

        Raises
        ------
        MsdmError
            The size of a pixel is needed, and is not known or is no number above 0.
        """
        text = row.get(PIXEL_SIZE, "").strip()
        if self.unit == "um" and pixel_size is None and text:
            pixel_size = read_pixel_size(text, where)
        return self.pixels(pixel_size)


def read_distance(text: str) -> Distance:
    """A length as it is written: ``6``, ``6px``, ``3um``.

    Raises
    ------
    MsdmError
        It is written otherwise.

    Examples
    --------
    >>> read_distance("3um").pixels(pixel_size=0.5)
    6.0
    """
    match = _TEXT.fullmatch(text.strip())
    if not match:
        raise MsdmError(f"distance {text!r}: write pixels or micrometres, such as 6px or 3um")
    return Distance(float(match[1]), "px" if match[2] in (None, "px") else "um")


def read_pixel_size(text: str, where: str) -> float:
    """The side of a pixel in micrometres, as a manifest has it.

    Parameters
    ----------
    text : str
    where : str
        Where it stands, for the message.

    Raises
    ------
    MsdmError
        It is no number above 0.
    """
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not (math.isfinite(size) and size > 0):
        raise MsdmError(f"{where}: {PIXEL_SIZE} is {text!r}; give micrometres per pixel, such as 0.5")
    return size
