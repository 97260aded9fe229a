"""Weights by a closed formula, the same bits on every machine, so that golden files need not store any.

Every value is a hash of its key and its index: integer arithmetic, then a correctly rounded square root and
division in float64, then a cast to float32.
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_MASK = np.uint64(0xFFFFFFFF)
# the last layer of every branch, which training starts at zero: if large, a trajectory amplifies rounding
_LAST = ("out.2.weight", "out_layers.2.weight", "out_layers.3.weight", "proj_out.weight")


def uniform(key: str, count: int) -> NDArray[np.float64]:
    """`count` values in [0, 1): the 32-bit finaliser of MurmurHash3 over crc32(key) + 2654435761 i."""
    i = np.arange(count, dtype=np.uint64)
    h = (np.uint64(zlib.crc32(key.encode())) + np.uint64(2654435761) * i) & _MASK
    h ^= h >> np.uint64(16)
    h = (h * np.uint64(0x85EBCA6B)) & _MASK
    h ^= h >> np.uint64(13)
    h = (h * np.uint64(0xC2B2AE35)) & _MASK
    h ^= h >> np.uint64(16)
    return h.astype(np.float64) / 2.0**32


def weight(key: str, shape: Sequence[int]) -> NDArray[np.float32]:
    """The tensor of one state-dict key.

    A matrix or kernel (out, in, ...) is uniform within +-1 / sqrt(fan_in); a vector whose key ends in
    ``.weight``, the scale of a normalisation, lies in 0.9 .. 1.1; any other vector, a bias, in -0.1 .. 0.1.
    """
    w = 2.0 * uniform(key, int(np.prod(shape))) - 1.0
    if len(shape) > 1:
        w /= np.sqrt(np.prod(shape[1:])) * (4.0 if key.endswith(_LAST) else 1.0)
    elif key.endswith(".weight"):
        w = 1.0 + 0.1 * w
    else:
        w *= 0.1
    return w.reshape(tuple(shape)).astype(np.float32)


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, NDArray[np.float32]]:
    """The tensors of a whole state dict, key -> shape."""
    return {key: weight(key, shape) for key, shape in shapes.items()}
