"""COCO's compressed run-length codes of a label map."""

import numpy as np
from numpy.typing import NDArray

from .base import Labels

_GROUPS = 7
"""Of 5 bits; a difference of two counts below 2**31 needs no more."""


def run_length_codes(labels: Labels) -> list[str]:
    """The code of each instance, 1..n, as pycocotools writes it (maskApi.c, rleEncode and rleToString).

    Parameters
    ----------
    labels : ndarray (H, W) uint16
        0 is background, instances are 1..n, each at least one pixel.

    Returns
    -------
    list of str
        Lengths of background and foreground in turn, column by column. Each count, from the fourth on less
        the one two before, in groups of 5 bits from the lowest, with a bit for more to come, plus 48.

    Examples
    --------
    >>> run_length_codes(np.array([[0, 1, 0], [1, 1, 0]], np.uint16))
    ['132']
    """
    flat = labels.T.ravel()
    at = np.flatnonzero(flat)
    at = at[np.argsort(flat[at], kind="stable")]
    of = flat[at].astype(np.int64)
    new = np.ones(len(at), bool)
    new[1:] = (np.diff(at) != 1) | (np.diff(of) != 0)
    first = np.flatnonzero(new)
    start, instance = at[first], of[first]
    length = np.diff(np.append(first, len(at)))
    count = np.bincount(instance, minlength=int(flat.max(initial=0)) + 1)[1:]
    codes = []
    stops = np.cumsum(count)
    for begin, stop in zip((stops - count).tolist(), stops.tolist(), strict=True):
        starts, lengths = start[begin:stop], length[begin:stop]
        counts = np.empty(2 * len(starts) + 1, np.int64)
        ends = starts + lengths
        counts[0:-1:2] = starts - np.concatenate([[0], ends[:-1]])
        counts[1::2] = lengths
        counts[-1] = flat.size - ends[-1]
        codes.append(_compress(counts if counts[-1] else counts[:-1]))
    return codes


def _compress(counts: NDArray[np.int64]) -> str:
    values = counts.copy()
    values[3:] -= counts[1:-2]
    characters = np.zeros((len(values), _GROUPS), np.uint8)
    open_ = np.ones(len(values), bool)
    for k in range(_GROUPS):
        bits = values & 31
        values >>= 5
        more = np.where(bits & 16, values != -1, values != 0)
        characters[:, k] = np.where(open_, (bits | (more << 5)) + 48, 0)
        open_ &= more
    return characters[characters > 0].tobytes().decode("ascii")
