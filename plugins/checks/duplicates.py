"""Images that are the same, or nearly, and those of them that lie in different splits."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .finding import Finding
from .images import BITS, Fingerprint, orientations

NEAR = 16
"""Bits of 256 in which hashes of nearly the same image differ at most. Unrelated ones differ in 128 +- 8."""

CROWD = 256
"""Images that share a part of their hash with one image and are compared with it, at most."""
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.int64)


def duplicate_findings(
    files: Sequence[str], prints: Sequence[Fingerprint], splits: Sequence[str | None]
) -> Iterator[Finding]:
    """A finding for every image that an earlier one resembles, flips and turns included.

    Parameters
    ----------
    files : sequence of str
        The image files.
    prints : sequence of Fingerprint
    splits : sequence of str or None
        None where the set has no splits.
    """
    seen: dict[bytes, int] = {}
    alone = []
    for i, found in enumerate(prints):
        original = seen.setdefault(found.digest, i)
        if original == i:
            alone.append(i)
        elif splits[original] != splits[i]:
            where = f"split {splits[i]}; same in split {splits[original]}: {files[original]}"
            yield Finding("leak-image", files[i], "", where)
        else:
            yield Finding("duplicate", files[i], "", f"same as {files[original]}")
    alone = [i for i in alone if prints[i].look is not None]
    looks = np.array([prints[i].look for i in alone], np.uint8).reshape(-1, BITS // 8)
    for a, b, bits in near_pairs(looks):
        i, j = alone[a], alone[b]
        text = f"{bits} of {BITS} bits from {files[i]}"
        if splits[i] != splits[j]:
            yield Finding("leak-near-image", files[j], "", f"split {splits[j]}; {text} in split {splits[i]}")
        else:
            yield Finding("near-duplicate", files[j], "", text)


def near_pairs(looks: NDArray[np.uint8], most: int = NEAR) -> list[tuple[int, int, int]]:
    """Every image with the nearest earlier one, if that differs in at most `most` bits in some orientation.

    Two hashes that differ in `most` bits agree in one of `most` + 1 parts at least (the pigeonhole
    principle): only pairs that share a part are compared.

    Parameters
    ----------
    looks : ndarray (N, 32) uint8
    most : int

    Returns
    -------
    list of (earlier, later, bits)
        In ascending order of `later`.
    """
    if len(looks) < 2:
        return []
    # interleaved, as neighbouring frequencies go together; the first bit is always 0
    parts = [np.arange(1 + part, BITS, most + 1) for part in range(most + 1)]
    keys = [_keys(looks, columns) for columns in parts]
    orders = [np.argsort(key, kind="stable") for key in keys]
    every = np.arange(len(looks))
    nearest: dict[int, tuple[int, int]] = {}
    for turned in orientations(looks):
        for columns, key, order in zip(parts, keys, orders, strict=True):
            sorted_, wanted = key[order], _keys(turned, columns)
            low, high = np.searchsorted(sorted_, wanted, "left"), np.searchsorted(sorted_, wanted, "right")
            # the k-th partner of every image at once
            for k in range(min(CROWD, int((high - low).max()))):
                later = every[low + k < high]
                earlier = order[low[later] + k]
                later, earlier = later[earlier < later], earlier[earlier < later]
                apart = _ONES[turned[later] ^ looks[earlier]].sum(axis=1)
                near = apart <= most
                for a, b, d in zip(earlier[near], later[near], apart[near], strict=True):
                    nearest[int(b)] = min(nearest.get(int(b), (BITS, 0)), (int(d), int(a)))
    return [(a, b, d) for b, (d, a) in sorted(nearest.items())]


def _keys(looks: NDArray[np.uint8], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bits of some columns as one number per hash."""
    powers = 1 << np.arange(len(columns), dtype=np.int64)
    found: NDArray[np.int64] = np.unpackbits(looks, axis=-1)[:, columns].astype(np.int64) @ powers
    return found
