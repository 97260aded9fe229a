"""Random numbers that depend on what they are drawn for, and on nothing else.

A generator is named by keys, such as (seed, "augment", epoch, id). No state is carried from one draw to the
next, so that results are the same whatever the batch size, the number of workers, or the step of a resume.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index

import numpy as np


def seed_for(*keys: int | str) -> int:
    """A seed for `keys`.

    Parameters
    ----------
    *keys : int or str
        In order; the int 1 and the string "1" are different keys.

    Returns
    -------
    int
        In [0, 2**63): the first 63 bits of the SHA-256 of the keys as a JSON list. It fits the signed 64 bits
        that `torch.Generator.manual_seed` takes, and is the same on every platform.
    """
    canonical = json.dumps([key if isinstance(key, str) else int(index(key)) for key in keys])
    return int.from_bytes(hashlib.sha256(canonical.encode("ascii")).digest()[:8], "big") >> 1


def rng_for(*keys: int | str) -> np.random.Generator:
    """A NumPy generator for `keys`, seeded by `seed_for`.

    Parameters
    ----------
    *keys : int or str

    Returns
    -------
    numpy.random.Generator
        PCG64, named rather than NumPy's default, which may change.
    """
    return np.random.Generator(np.random.PCG64(seed_for(*keys)))


def seed_globals(*keys: int | str) -> None:
    """Seed the generators that a process has for all: Python's, NumPy's, and PyTorch's of every device.

    Nothing of ours but dropout draws from them. What a plugin draws from them is then a function of `keys` as
    well, and a resumed run draws it again.

    Parameters
    ----------
    *keys : int or str
    """
    import torch

    seed = seed_for(*keys)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (it is what others draw from)
    torch.manual_seed(seed)


@contextmanager
def seeded_globals(*keys: int | str) -> Iterator[None]:
    """As `seed_globals` within the block, on the CPU alone; after it they go on as if nothing had been drawn.

    Parameters
    ----------
    *keys : int or str
    """
    import torch

    seed = seed_for(*keys)
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.set_rng_state(kept[2])
