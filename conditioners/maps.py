"""What the conditioners that emit maps share."""

from typing import Annotated

import torch
from pydantic import AfterValidator, Field

from ..core.conditioning import Signal, constant_map

ABSENT = -2.0
"""The absent condition of a map whose channels lie in [-1, 1]: a value that no present map takes.

Zero would not do: a crop without instances has maps that are zero everywhere, and the network could not tell
"nothing here" from "not told".
"""


def absent_map(like: Signal) -> Signal:
    """The map that is `ABSENT` everywhere, in the shape, dtype and device of `like`."""
    return constant_map(torch.full(like.data.shape[1:2], ABSENT), like)


def _distinct(kinds: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"a mask kind is named twice in {', '.join(kinds)}; name each once")
    return kinds


MaskKinds = Annotated[
    tuple[str, ...],
    AfterValidator(_distinct),
    Field(min_length=1, description="Mask kinds, in the order of their channels."),
]
"""The kinds of mask that a conditioner reads: at least one, each once."""
