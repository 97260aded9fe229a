"""The figures of an experiment: 2a, 2b and 3 of the MSDM paper."""

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...core.fields import IMAGES, MANIFEST, locate
from ...core.images import read_image
from ...core.manifest import read_manifest
from ...core.pictures import overlay
from ..report import figures
from ..report.page import Figure
from ..report.pictures import tiles
from ..segmentation.evaluation import read_masks
from .graph import PAIRS
from .plan import Plan
from .steps import Task

Fidelities = Mapping[str, dict[str, Any]]
Values = NDArray[np.float64]

EXAMPLES = 4
"""Rows of figure 2a."""


def generator_title(plan: Plan, name: str) -> str:
    """What tables call a generator."""
    return plan.generators[name].title or name


def examples(task: Task, plan: Plan) -> Figure:
    """Figure 2a: selected fields and their first paintings, spread over the selection."""
    painted = {folder.name.removeprefix("paint."): folder / PAIRS for folder in task.need("paint")}
    rows = read_manifest(next(iter(painted.values())) / MANIFEST)
    chosen = [rows[k * len(rows) // EXAMPLES] for k in range(min(EXAMPLES, len(rows)))]
    shown, captions = [], []
    for row in dict((row["id"], row) for row in chosen).values():
        source = row["source_morphology"]
        real = read_image(locate(task.data / IMAGES, source))
        pictures = [real, overlay(real, read_masks(task.data, source, plan.kinds))]
        pictures += [read_image(locate(root / IMAGES, row["id"])) for root in painted.values()]
        shown.append(pictures)
        captions.append(f"{row['id']}: masks of {source}, colours of {row['source_appearance']}")
    columns = ["real", "its masks", *(generator_title(plan, name) for name in painted)]
    return Figure(
        "Selected fields and what was painted from their masks",
        "Figure 2a of the paper. Where colours are those of another field, as the caption says, a painting "
        "need not have those of the real one; its masks it must follow.",
        f"{len(shown)} fields in {len(columns)} columns: {', '.join(columns)}.",
        tiles(shown, columns, captions, 256),
    )


def read_eccentricities(path: Path) -> dict[tuple[str, str], Values]:
    """(kind, set) -> eccentricities of the instances, as the step `shapes` wrote them."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    with path.open(encoding="ascii", newline="") as handle:
        for row in csv.DictReader(handle):
            found[row["kind"], row["set"]].append(float(row["eccentricity"]))
    return {key: np.array(values) for key, values in found.items()}


def sets(plan: Plan, values: Mapping[tuple[str, str], Values], kind: str) -> dict[str, Values]:
    """The sets of figure 2b by title: training set before and after augmentation, and test sets."""
    none = np.zeros(0)
    train = values.get((kind, "train"), none)
    found = {}
    for arm, entry in plan.arms.items():
        parts = [train, *(values.get((kind, f"paint.{name}"), none) for name in entry.generators)]
        label = "training set" if arm == plan.baseline else f"training set + {plan.title(arm)}"
        found[label] = np.concatenate(parts)
    return found | {plan.test_title(test): values.get((kind, f"test.{test}"), none) for test in plan.tests}


def shape_figures(plan: Plan, values: Mapping[tuple[str, str], Values]) -> dict[str, Figure]:
    """Figure 2b for each kind, by the name of its file."""
    found = {}
    for kind in plan.kinds:
        drawn = sets(plan, values, kind)
        means = ", ".join(f"{name} {v.mean():.3f}" for name, v in drawn.items() if v.size)
        found[f"figure2b-{kind}"] = Figure(
            f"Eccentricity of instances, {kind}",
            "Figure 2b of the paper: the training set before and after augmentation, and the test sets. 0 is "
            "a circle, 1 a line. Generators paint the same masks, so that their curves lie on each other.",
            f"Mean eccentricity: {means}.",
            figures.distributions(drawn, f"eccentricity, {kind}", limits=(0.0, 1.0)),
        )
    return found


def matrices(plan: Plan, fidelities: Fidelities) -> dict[str, Figure]:
    """Figure 3 for each generator, by the name of its file."""
    found = {}
    for name, fidelity in fidelities.items():
        title = generator_title(plan, name)
        said = (
            f"matching {pair(fidelity['matching'])}, not matching {pair(fidelity['non_matching'])}; of half "
            f"as many fields, painted against real {halves(fidelity, 'painted')}, real against real "
            f"{halves(fidelity, 'real')}"
        )
        found[f"figure3-{name}"] = Figure(
            f"Wasserstein distances, {title}",
            f"Figure 3 of the paper: rows are groups of real fields, columns of painted ones "
            f"({', '.join(plan.fidelity.groups)}); smaller is nearer. Matching groups lie on the diagonal: "
            f"{said}.",
            f"Wasserstein distances of {title}: {said}.",
            figures.matrix(
                np.array(fidelity["matrix"], np.float64),
                fidelity["rows"],
                fidelity["columns"],
                label="Wasserstein distance",
                axes=("real", "painted"),
            ),
        )
    return found


def pair(value: Mapping[str, float | None]) -> str:
    """Mean and deviation, where they are known."""
    mean, deviation = value["mean"], value["sd"]
    if mean is None:
        return "–"
    return f"{mean:.4g}" if deviation is None else f"{mean:.4g} ± {deviation:.2g}"


def halves(fidelity: Mapping[str, Any], what: Literal["painted", "real"]) -> str:
    """Mean distance of halves of a group, painted or real, from real halves of as many fields.

    Over the groups in which both are known.
    """
    both = [(one["painted_halves"], one["real_halves"]) for one in fidelity["groups"]]
    known = [found[what == "real"] for found in both if None not in found]
    return pair({"mean": math.fsum(known) / len(known) if known else None, "sd": None})


def strips(titles: Sequence[str], values: Sequence[Sequence[float]], label: str) -> bytes:
    """Per-field scores of arms."""
    return figures.strips(dict(zip(titles, values, strict=True)), label)
