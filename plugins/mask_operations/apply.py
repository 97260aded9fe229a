"""A list of mask operations: read, checked, and applied to a field."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import MsdmError
from ...core.recipe import Recipe
from ...core.sample import Sample
from ...core.seeds import rng_for
from ..check import configure
from ..choice import choose, read_choice
from ..host import Host, get_host
from ..instances import Classes, present
from ..recipe_yaml import read_mapping
from .base import Grown, MaskOperation
from .units import Masks

KEY = "mask_operations"
"""Of a YAML file, of a recipe's section `sample`, and the column of a manifest."""
NONE = "none"
"""On the command line, in place of operations: the masks as they are."""


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
        ``.yml`` with a list under ``mask_operations``; or ``none`` alone.
    host : Host or None

    Raises
    ------
    MsdmError
        A text is of another form, a file cannot be read, a name is unknown, or a setting is illegal.
    """
    entries: list[tuple[str, Any]] = []
    if NONE in texts:
        if len(texts) > 1:
            raise MsdmError(f"--mask-op {NONE} is no operation beside others; give it alone, or leave it out")
        return []
    for text in texts:
        if text.endswith((".yaml", ".yml")):
            found = _file(Path(text))
            entries += [(f"{text}: {KEY}.{i}", entry) for i, entry in enumerate(found)]
            continue
        entries.append((f"mask operation {text!r}", read_choice("mask_operation", text)))
    return [_build(where, entry, host or get_host()) for where, entry in entries]


def recipe_operations(recipe: Recipe, host: Host | None = None) -> list[Operation]:
    """The operations of a recipe's ``sample.mask_operations``, in order.

    Raises
    ------
    MsdmError
        A name is unknown, or a setting is illegal, with its dotted path.
    """
    found = []
    for i, entry in enumerate(recipe.sample.mask_operations):
        path = f"sample.{KEY}.{i}"
        cls, config = configure(recipe, "mask_operation", path, entry, host or get_host())
        found.append(Operation(entry.type, cls(config)))
    return found


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
        With the changed masks and the classes of their instances, without an image.
    record : str
        JSON: the operations with all settings and the id of the other field, and the seed.

    Raises
    ------
    MsdmError
        There is no other field to be had, or an operation gives back what it may not.
    """
    record: list[dict[str, Any]] = []
    masks, classes = dict(sample.masks), sample.classes
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
        changed = step.operation.apply(masks, rng_for(seed, KEY, k, sample.id), given)
        _check(step.name, masks, changed)
        masks, classes = dict(changed), _classes(changed, classes, found)
        record.append(entry)
    fresh = replace(sample, masks=masks, image=None, look=sample.appearance, classes=classes)
    return fresh, json.dumps({"operations": record, "seed": seed}, sort_keys=True)


def _classes(changed: Masks, classes: Classes, other: Sample | None) -> Classes:
    """Classes of the instances that are there now: what was made of another has its class.

    Labels that are gone have none: a later operation may give them to new instances.
    """
    if not isinstance(changed, Grown):
        return present(changed, classes)
    now = {kind: dict(classes.get(kind, {})) for kind in changed}
    for origins, of in ((changed.copies, classes), (changed.pasted, other.classes if other else {})):
        for kind, made in origins.items():
            named = of.get(kind, {})
            now[kind] |= {label: named[old] for label, old in made.items() if old in named}
    return present(changed, now)


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
    found = read_mapping(path, "file of mask operations")
    if list(found) != [KEY] or not isinstance(found[KEY], list):
        raise MsdmError(f"{path} must hold the key {KEY} alone, with a list, such as [{{type: flip_turn}}]")
    return list(found[KEY])


def _build(where: str, entry: Any, host: Host) -> Operation:
    name, cls, config = choose("mask_operation", entry, where, host)
    return Operation(name, cls(config))
