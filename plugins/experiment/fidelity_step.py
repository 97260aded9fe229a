"""How near paintings of held-out fields are to these fields: the figures as plain values."""

import math
from typing import Any

from ...core.dataset import FieldDataset
from ..choice import choose
from ..device import pick_device
from ..fidelity.fidelity import Fidelity, fidelity
from .graph import PAIRS
from .steps import Task

STAGES = 9
"""Of `fidelity`; the last ones are short."""


def measure(task: Task) -> dict[str, Any]:
    """The fidelity of a generator, as `record` gives it."""
    s = task.settings
    _, cls, config = choose("embedder", s["embedder"], "fidelity.embedder")
    (painted,) = task.need("repaint")
    kinds = s["kinds"]
    seen: list[str] = []

    def listen(stage: str, done: int, total: int) -> None:
        if stage not in seen:
            seen.append(stage)
        task.report(min(1.0, (len(seen) - 1 + (done / total if total else 1)) / STAGES))

    found = fidelity(
        FieldDataset(task.data, masks=kinds, split=s["split"]),
        FieldDataset(painted / PAIRS, masks=kinds),
        cls(config, pick_device(task.device)),
        group=s["groups"],
        reference=FieldDataset(task.data, masks=kinds, split=s["train"]),
        allow_random=True,  # it says so in its warnings
        on_progress=listen,
    )
    return record(found)


def record(found: Fidelity) -> dict[str, Any]:
    """Plain values: None for what is not there.

    Returns
    -------
    dict
        ``rows``, ``columns``, ``matrix``; ``matching`` and ``non_matching``, each with ``mean`` and ``sd``;
        ``groups``, with the floor; ``numbers``: title -> value; ``warnings``.
    """
    matrix, matching = found.matrix, found.matching
    memory, follows = found.memorisation, found.adherence
    numbers: dict[str, float | None] = {
        "Permutation test of matching groups, p": None if matching is None else matching.p
    }
    for result in found.metrics:
        title = result.metric.title
        numbers[title] = result.value
        if result.low is not None:
            numbers[f"{title}: 95 % interval, low"] = result.low
            numbers[f"{title}: 95 % interval, high"] = result.high
        numbers[f"{title}: halves of equal size"] = result.synthetic
        numbers[f"{title}: real halves, the floor"] = result.floor
    if memory is not None:
        numbers["Copies of training fields"] = len(memory.copies)
        numbers["Nearer to a training field than 95 % of these to each other, share"] = memory.nearer
    if follows is not None:
        numbers[f"Mask adherence ({follows.kind}), painted"] = follows.synthetic[0]
        numbers[f"Mask adherence ({follows.kind}), real"] = follows.real[0]
        numbers[f"Mask adherence ({follows.kind}), painted, masks turned"] = follows.turned[0]
        numbers["Colour error, levels of 255"] = follows.colour[0]
        numbers["Colour error between real fields of a group, levels"] = follows.colour_other[0]
    return {
        "embedder": found.fingerprint,
        "distance": matrix.distance,
        "rows": list(matrix.real),
        "columns": list(matrix.synthetic),
        "matrix": [[_known(value) for value in row] for row in matrix.values.tolist()],
        "matching": _pair(*(None, None) if matching is None else (matching.mean, matching.deviation)),
        "non_matching": _pair(
            *(None, None) if matching is None else (matching.other_mean, matching.other_deviation)
        ),
        "groups": [
            {
                "group": one.group,
                "fields_of_a_half": one.size,
                "real_halves": _known(one.floor),
                "painted_halves": _known(one.synthetic),
            }
            for one in found.floors
        ],
        "numbers": {title: _known(value) for title, value in numbers.items()},
        "warnings": found.warnings,
    }


def _pair(mean: float | None, deviation: float | None) -> dict[str, float | None]:
    return {"mean": _known(mean), "sd": _known(deviation)}


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
