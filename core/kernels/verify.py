"""A kernel's first use on a device: a small case against its twin, before any result depends on it."""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Relative to the largest value: far above rounding, far below a wrong result."""

_log = logging.getLogger("msdm_kit")

Results = Sequence[Tensor | None]


def agrees(name: str, dtype: torch.dtype, kernel: Callable[[], Results], twin: Callable[[], Results]) -> bool:
    """Whether a kernel gives what its twin gives; where not, the log says so.

    Parameters
    ----------
    name : str
        Of the kernel, for the log.
    dtype : torch.dtype
        fp32 or bf16, what both compute in.
    kernel, twin : callable () -> sequence of Tensor or None

    Returns
    -------
    bool
    """
    try:
        pairs = list(zip(kernel(), twin(), strict=True))
        errors = [relative_error(a, b) for a, b in pairs if a is not None and b is not None]
    except RuntimeError as problem:
        _log.warning("%s is not used, plain torch instead: %s", name, str(problem).splitlines()[0])
        return False
    worst = max(errors)
    # written so that NaN does not pass
    if not worst < TOLERANCE[dtype]:
        _log.warning("%s is not used, plain torch instead: its result is %.1e off here", name, worst)
        return False
    return True


def relative_error(mine: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest value of `theirs`, which counts as 1e-6 at the least.

    Computed in fp32; NaN where either has one.

    Examples
    --------
    >>> relative_error(torch.tensor([1.0, -4.5]), torch.tensor([1.0, -4.0]))
    0.125
    """
    mine, theirs = mine.float(), theirs.float()
    return float((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))
