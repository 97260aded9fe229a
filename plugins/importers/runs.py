"""Run-length codes: those of the Data Science Bowl, and both of COCO. All go column by column."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError

Runs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Starts, from 0, and lengths."""


def from_pairs(text: str, size: tuple[int, int], where: str) -> Runs:
    """Runs of ``start length start length ...``, starts from 1 (Data Science Bowl 2018).

    Parameters
    ----------
    text : str
    size : (int, int)
        Height and width.
    where : str
        Names the code in a message.

    Raises
    ------
    MsdmError
        It is no such code, or leads out of the picture.
    """
    try:
        numbers = np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise MsdmError(f"{where}: {text[:40]!r} is no run-length code; legal is: start length ...") from None
    if len(numbers) % 2:
        raise MsdmError(
            f"{where}: {len(numbers)} numbers, and runs are pairs of start and length; it is cut short"
        )
    return _checked(numbers[::2] - 1, numbers[1::2], size, where)


def from_counts(counts: object, size: tuple[int, int], where: str) -> Runs:
    """Runs of COCO's ``counts``: lengths of background and foreground in turn, as a list or compressed.

    Compressed as in pycocotools (maskApi.c, rleToString): each count, from the fourth on less the one two
    before, in groups of 5 bits from the lowest, with a bit for more to come, plus 48; the last is signed.

    Parameters
    ----------
    counts : str, or sequence of int
    size : (int, int)
        Height and width.
    where : str

    Raises
    ------
    MsdmError
        It is no such code, or does not add up to the picture.
    """
    if isinstance(counts, str):
        numbers = np.array(_decompress(counts, where), dtype=np.int64)
    else:
        try:
            found = np.array(counts)
        except (TypeError, ValueError, OverflowError):
            found = np.array(-1)
        whole = found.dtype.kind in "iu"
        if found.dtype.kind == "f":  # numbers of JSON may have a point, and an empty list is one of such
            whole = bool(((np.abs(found) < 2**53) & (found == np.trunc(found))).all())
        if found.ndim != 1 or not whole:
            raise MsdmError(f"{where}: counts are a list of whole numbers, or a string; these are neither")
        numbers = found.astype(np.int64)
    pixels = size[0] * size[1]
    # Each on its own first: a sum may overflow.
    if ((numbers < 0) | (numbers > pixels)).any() or numbers.sum() != pixels:
        raise MsdmError(
            f"{where}: counts do not add up to the {pixels} pixels of a {size[0]} x {size[1]} picture; the "
            "code is "
            f"damaged, or of another picture"
        )
    ends = np.cumsum(numbers)
    return (ends - numbers)[1::2], numbers[1::2]


def paint(columns: NDArray[np.int32], runs: Sequence[NDArray[np.int64]], label: int) -> None:
    """Write a label along runs, in place.

    Parameters
    ----------
    columns : ndarray (H * W) int32
        A label map, column by column.
    runs : (starts, lengths)
        Within it.
    label : int
    """
    starts, lengths = runs
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    columns[np.repeat(starts - (ends - lengths), lengths) + np.arange(total)] = label


def _decompress(text: str, where: str) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            raise MsdmError(f"{where}: {text[:40]!r} is no compressed run-length code; write the file again")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise MsdmError(f"{where}: the run-length code ends within a number; the file is cut short")
    return counts


def _checked(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], size: tuple[int, int], where: str
) -> Runs:
    pixels = size[0] * size[1]
    # Sorted and disjoint, they add up to at most the picture: the memory for them is bounded.
    wrong = (starts < 0) | (lengths < 1) | (starts > pixels - lengths)
    wrong[1:] |= starts[1:] < (starts + lengths)[:-1]
    if wrong.any():
        k = int(np.argmax(wrong))
        raise MsdmError(
            f"{where}: run {starts[k] + 1} {lengths[k]} leads out of the {size[0]} x {size[1]} picture or "
            "back "
            f"over another; the code is damaged, or of another picture"
        )
    return starts, lengths
