"""Colours given by hand, as numbers or as ranges to draw from, in levels of 0 to 255."""

import re
from dataclasses import dataclass

from ..core.errors import MsdmError
from ..core.sample import ColourStatistics, Sample
from ..core.seeds import rng_for

Range = tuple[float, float]
Triple = tuple[float, float, float]
Colour = tuple[Triple, Triple | None]
"""Mean and standard deviation of R, G, B in levels of 0 to 255; without one, it is the donor's."""

_FORM = "write KIND=R,G,B in levels of 0 to 255, or a range of each, such as cell=100-140,50-70,130-150"
_LEVEL = re.compile(r"\s*(\d+(?:\.\d*)?)\s*(?:-\s*(\d+(?:\.\d*)?)\s*)?", re.ASCII)
# The deviation of values in [0, 255] is at most half of that (Popoviciu 1935).
_HIGHEST = {"mean": 255.0, "deviation": 127.5}


@dataclass(frozen=True)
class ColourRange:
    """Colours to draw from: for each of R, G, B the lowest and the highest level, 0 to 255."""

    mean: tuple[Range, Range, Range]
    std: tuple[Range, Range, Range] | None = None


def parse_colour(text: str) -> tuple[str, ColourRange]:
    """Read a given colour.

    Parameters
    ----------
    text : str
        ``KIND=R,G,B`` or ``KIND=R,G,B:R,G,B`` with the deviations, in levels of 0 to 255; each a number, or a
        range such as ``100-140``.

    Returns
    -------
    kind : str
    ColourRange

    Raises
    ------
    MsdmError
        The text is of another form, or a level is out of range.

    Examples
    --------
    >>> parse_colour("cell=120,60,130-150")
    ('cell', ColourRange(mean=((120.0, 120.0), (60.0, 60.0), (130.0, 150.0)), std=None))
    """
    kind, _, levels = text.partition("=")
    mean, colon, std = levels.partition(":")
    if not kind.strip() or not levels:
        raise MsdmError(f"colour {text!r}: {_FORM}")
    deviations = _ranges(text, std, "deviation") if colon else None
    return kind.strip(), ColourRange(_ranges(text, mean, "mean"), deviations)


def draw_colour(seed: int, id: str, kind: str, given: ColourRange) -> Colour:
    """A colour of a range, for one output and one kind: uniform in each of R, G, B, to 0.01 levels."""
    rng = rng_for(seed, "colour", id, kind)

    def draw(ranges: tuple[Range, Range, Range]) -> Triple:
        a, b, c = (round(float(rng.uniform(low, high)), 2) for low, high in ranges)
        return a, b, c

    return draw(given.mean), draw(given.std) if given.std is not None else None


def statistics(kind: str, colour: Colour, donor: Sample) -> ColourStatistics:
    """A given colour on the scale of images; a deviation that is not given is the donor's.

    Raises
    ------
    MsdmError
        It is not given, and the donor has no such foreground to measure it on.
    """
    mean, std = colour
    r, g, b = (value / 127.5 - 1 for value in mean)
    if std is not None:
        x, y, z = (value / 127.5 for value in std)
        return ColourStatistics((r, g, b), (x, y, z))
    measured = donor.appearance.colours(kind)
    if measured is None:
        raise MsdmError(
            f"field {donor.id!r} has no {kind!r} to measure a deviation on; give it, as in {kind}=R,G,B:R,G,B"
        )
    return ColourStatistics((r, g, b), measured.std)


def _ranges(text: str, levels: str, what: str) -> tuple[Range, Range, Range]:
    found: list[Range] = []
    for part in levels.split(","):
        numbers = _LEVEL.fullmatch(part)
        if not numbers:
            raise MsdmError(f"colour {text!r}: {part.strip()!r} is no level; {_FORM}")
        low, high = float(numbers[1]), float(numbers[2] or numbers[1])
        if not low <= high <= _HIGHEST[what]:
            raise MsdmError(
                f"colour {text!r}: {part.strip()!r} is no {what}; legal: 0 to {_HIGHEST[what]:g}, low to high"
            )
        found.append((low, high))
    if len(found) != 3:
        raise MsdmError(f"colour {text!r}: {len(found)} levels of {what}, and R, G, B are 3; {_FORM}")
    return found[0], found[1], found[2]
