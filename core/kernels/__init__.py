"""Kernels for the operations that pay for one; each has a twin in plain torch, and the same result."""

import os
from functools import cache

from ..errors import MsdmError

SWITCH = "MSDM_KIT_KERNELS"


@cache
def enabled() -> bool:
    """Whether kernels of our own may be used: the environment's MSDM_KIT_KERNELS is not ``off``.

    Read once per process.

    Raises
    ------
    MsdmError
        The variable is neither ``on`` nor ``off``.
    """
    value = os.environ.get(SWITCH, "on")
    if value not in ("on", "off"):
        raise MsdmError(f"{SWITCH} is {value!r}: set it to on or off")
    return value == "on"
