"""A list of mask operations: read, checked, and applied to a field."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import MsdmError
from ...core.sample import Sample
from ...core.seeds import rng_for
from ..choice import choose, read_choice
from ..host import Host, get_host
from ..recipe_yaml import parse
from .base import MaskOperation

KEY = "mask_operations"
"""Of a YAML file, and the column of a manifest."""


@dataclass(frozen=True)
class Operation:
    """An operation by its plugin's name.

    Attributes
    ----------
    name : str
    operation : MaskOperation
    """

    name: str
    operation: MaskOperation

    @property
    def settings(self) -> dict[str, Any]:
        """``type`` and every setting, as JSON takes them."""
        return {"type": self.name, **self.operation.config.model_dump(mode="json")}


def load_operations(texts: Sequence[str], host: Host | None = None) -> list[Operation]:
    """Operations as the command line gives them, in order.

    Parameters
    ----------
    texts : sequence of str
        Each ``NAME``, ``NAME:KEY=VALUE,KEY=VALUE`` with values in YAML, or a file that ends in ``.yaml`` or
        ``.yml`` with a list under ``mask_operations``.
    host : Host or None

    Raises
    ------
    MsdmError
        A text is of another form, a file cannot be read, a name is unknown, or a setting is illegal.
    """
    entries: list[tuple[str, Any]] = []
    for text in texts:
        if text.endswith((".yaml", ".yml")):
            found = _file(Path(text))
            entries += [(f"{text}: {KEY}.{i}", entry) for i, entry in enumerate(found)]
            continue
        entries.append((f"mask operation {text!r}", read_choice("mask_operation", text)))
    return [_build(where, entry, host or get_host()) for where, entry in entries]


def operate(
    sample: Sample,
    operations: Sequence[Operation],
    seed: int,
    other: Callable[[np.random.Generator], Sample] | None = None,
) -> tuple[Sample, str]:
    """Apply operations to the masks of a field.

    Parameters
    ----------
    sample : Sample
        Its look must be set where the colours are those of its image: they are measured on the masks that
        belong to it.
    operations : sequence of Operation
    seed : int
        The numbers of the k-th operation are drawn for (seed, k, id of the sample).
    other : callable (rng) -> Sample, or None
        Draws another field of the same size, for operations that need one.

    Returns
    -------
    sample : Sample
        With the changed masks, without an image.
    record : str
        JSON: the operations with all settings and the id of the other field, and the seed.

    Raises
    ------
    MsdmError
        There is no other field to be had, or an operation gives back what it may not.
    """
    record: list[dict[str, Any]] = []
    masks = dict(sample.masks)
    for k, step in enumerate(operations):
        entry = step.settings
        found = None
        if step.operation.needs_other:
            if other is None:
                raise MsdmError(
                    f"{step.name} needs another field for {sample.id!r}; give more than one field"
                )
            found = other(rng_for(seed, KEY, "other", k, sample.id))
            entry["other"] = found.id
        given = None if found is None else found.masks
        changed = dict(step.operation.apply(masks, rng_for(seed, KEY, k, sample.id), given))
        _check(step.name, masks, changed)
        masks = changed
        record.append(entry)
    fresh = replace(sample, masks=masks, image=None, look=sample.appearance)
    return fresh, json.dumps({"operations": record, "seed": seed}, sort_keys=True)


def _check(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    for kind, labels in before.items():
        new = after.get(kind)
        if new is None or new.shape != labels.shape or new.dtype != np.int32 or (new.size and new.min() < 0):
            raise MsdmError(
                f"mask operation {name} gives back no {kind} mask of {labels.shape} int32 labels; mend or "
                f"leave out that plugin"
            )
        if labels.any() and not new.any():
            raise MsdmError(f"mask operation {name} leaves no {kind}; a field has at least one of each kind")


def _file(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MsdmError(f"{path} cannot be read ({error}); give a YAML file with {KEY}: [...]") from None
    found = parse(text, str(path))
    if not isinstance(found, dict) or list(found) != [KEY] or not isinstance(found[KEY], list):
        raise MsdmError(f"{path} must hold the key {KEY} alone, with a list, such as [{{type: flip_turn}}]")
    return list(found[KEY])


def _build(where: str, entry: Any, host: Host) -> Operation:
    name, cls, config = choose("mask_operation", entry, where, host)
    return Operation(name, cls(config))
