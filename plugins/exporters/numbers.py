"""Classes as numbers, as HoVer-Net and the sets in its layout have them, and a file with their names."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError
from ..importers.hovernet_output import TYPE_INFO
from .base import ExportedField, Labels, Plan

# Matplotlib's tab10: colours that are told apart.
_COLOURS = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207),
)  # fmt: skip
MAX_TYPES = 255


def type_numbers(names: Sequence[str]) -> dict[str, int]:
    """A number from 1 for every class.

    Classes that are numbers already, as those of CoNSeP, keep theirs; others are numbered in the order of
    their names. 0 is no class.

    Raises
    ------
    MsdmError
        There are more than 255 of them.

    Examples
    --------
    >>> type_numbers(["2", "7"]), type_numbers(["round", "elongated"])
    ({'2': 2, '7': 7}, {'elongated': 1, 'round': 2})
    """
    if len(names) > MAX_TYPES:
        raise MsdmError(f"the data have {len(names)} classes, and {MAX_TYPES} types are legal; merge some")
    # "07" would come back as "7"
    if all(name.isascii() and name.isdigit() and str(int(name)) == name for name in names) and all(
        0 < int(name) <= MAX_TYPES for name in names
    ):
        return {name: int(name) for name in names}
    return {name: number for number, name in enumerate(sorted(names), 1)}


def types_of(exported: ExportedField, plan: Plan) -> tuple[Labels, NDArray[np.int32]]:
    """The labels of a field of one kind, and the type of each instance in the order of its labels."""
    (kind,) = plan.kinds
    labels, named = exported.masks[kind], exported.classes.get(kind, {})
    numbers = type_numbers(plan.classes.get(kind, ()))
    count = int(labels.max())
    return labels, np.array([numbers[named[k]] if k in named else 0 for k in range(1, count + 1)], np.int32)


def write_type_info(folder: Path, plan: Plan) -> None:
    """Write `type_info.json` as HoVer-Net has it: name and colour by number; nothing without classes."""
    (kind,) = plan.kinds
    numbers = type_numbers(plan.classes.get(kind, ()))
    if numbers:
        info: dict[str, object] = {"0": ["nolabel", [0, 0, 0]]}
        for name, number in numbers.items():
            info[str(number)] = [name, list(_COLOURS[(number - 1) % len(_COLOURS)])]
        text = json.dumps(info, indent=1, ensure_ascii=False)
        (folder / TYPE_INFO).write_text(text + "\n", encoding="utf-8")


def untyped_note(plan: Plan, untyped: int) -> list[str]:
    """A note where some instances have a class and some have none."""
    if not untyped or not plan.classes.get(plan.kinds[0]):
        return []
    return [f"{untyped} instances have no class: their type is 0, which HoVer-Net takes for background"]
