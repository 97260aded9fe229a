"""What an experiment found: tables, figures, one page."""

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ...core.fields import MANIFEST
from ...core.files import write_bytes, write_text
from ...core.manifest import read_manifest
from ..metrics.base import MaskMetric
from ..report.html import write_report
from ..report.page import Figure, Report, Section, Table
from ..report.provenance import provenance
from ..segmentation.scores import mask_metrics
from .graph import FIDELITY, FIGURES, PAIRS, SCORES, SELECTED, SHAPES
from .pictures import (
    Fidelities,
    Values,
    examples,
    generator_title,
    halves,
    matrices,
    pair,
    read_eccentricities,
    sets,
    shape_figures,
    strips,
)
from .plan import Plan
from .results import Results, Score, read_scores, write_scores
from .significance import Comparison
from .steps import Task
from .table import (
    AGREEMENT,
    Table1,
    heading,
    make_table,
    note,
    percent,
    show,
    to_csv,
    to_markdown,
    trainings,
)

FEW = 30
"""Fields of a test set below which a report warns."""
PAPER_SEEDS = 5


def make(task: Task) -> None:
    """Write the results into the task's folder: see `docs/experiment.md` for the files."""
    plan = Plan.model_validate(task.settings["plan"])
    out = task.folder
    scores = [score for folder in task.need("score") for score in read_scores(folder / SCORES)]
    agreement = [score for folder in task.need("agreement") for score in read_scores(folder / SCORES)]
    results = Results(plan, scores, agreement)
    every = {name: metric for name, metric in mask_metrics().items() if set(metric.kinds) <= set(plan.kinds)}
    columns = {name: every[name] for name in task.settings["columns"]}
    comparisons = results.comparisons(list(columns))
    table = make_table(results, columns, comparisons, bool(agreement))
    words = note(results, columns)
    write_scores(out / "results.csv", [*_usable(scores, every), *_usable(agreement, every)])
    write_text(out / "table1.csv", to_csv(table))
    write_text(out / "table1.md", to_markdown(table, words))
    write_text(out / "significance.csv", _significance(comparisons))
    fidelities = {
        folder.name.removeprefix("fidelity."): json.loads((folder / FIDELITY).read_text(encoding="utf-8"))
        for folder in task.need("fidelity")
    }
    write_text(out / FIDELITY, json.dumps(fidelities, indent=2) + "\n")
    (shapes,) = task.need("shapes")
    write_bytes(out / SHAPES, (shapes / SHAPES).read_bytes())
    eccentricities = read_eccentricities(shapes / SHAPES)
    pictures = {"figure2a": examples(task, plan), **shape_figures(plan, eccentricities)}
    distances = matrices(plan, fidelities)
    for name, figure in {**pictures, **distances}.items():
        suffix = "png" if figure.content.startswith(b"\x89PNG") else "svg"
        write_bytes(out / FIGURES / f"{name}.{suffix}", figure.content)
    selected = _selected(task)
    sections = [
        _segmentation(results, table, words, comparisons),
        Section(
            "What was painted, and what it changes in the training set",
            _shape_words(plan, eccentricities, selected),
            list(pictures.values()),
        ),
        _fidelity(plan, fidelities, list(distances.values())),
        _everything(results, every, bool(agreement)),
    ]
    report = Report(
        f"Experiment {plan.name}",
        _summary(plan, table, comparisons),
        _warnings(plan, results, fidelities, selected),
        sections,
        plan.model_dump(mode="json"),
        provenance(),
    )
    write_report(out / "report.html", report)


def _usable(scores: list[Score], metrics: Mapping[str, MaskMetric]) -> list[Score]:
    return [score for score in scores if score.metric in metrics]


def _selected(task: Task) -> tuple[int, int]:
    """Selected fields, and painted ones of a generator."""
    chosen = len(read_manifest(task.need("select")[0] / SELECTED))
    return chosen, len(read_manifest(task.need("paint")[0] / PAIRS / MANIFEST))


def _summary(plan: Plan, table: Table1, comparisons: list[Comparison]) -> list[str]:
    """What the tests say of each pair of arms, with nothing left out."""
    found = []
    pairs = dict.fromkeys((one.test, one.first, one.second) for one in comparisons)
    for test, first, second in pairs:
        verdicts: dict[str, list[str]] = defaultdict(list)
        for one in comparisons:
            if (one.test, one.first, one.second) == (test, first, second):
                metric = table.metrics[one.metric]
                verdicts[_verdict(one, metric, plan.significance.level)].append(metric.title)
        words = [f"{verdict}: {', '.join(titles)}" for verdict, titles in sorted(verdicts.items())]
        found.append(
            f"{plan.test_title(test)}, {plan.title(second)} compared with {plan.title(first)}. "
            f"{'. '.join(words)}."
        )
    return found


def _verdict(comparison: Comparison, metric: MaskMetric, level: float) -> str:
    if math.isnan(comparison.corrected):
        return "Not tested"
    if comparison.corrected >= level:
        return "No significant difference"
    better = (comparison.difference > 0) == (metric.better == "higher")
    return "Significantly better" if better else "Significantly worse"


def _warnings(plan: Plan, results: Results, fidelities: Fidelities, selected: tuple[int, int]) -> list[str]:
    found = []
    for test in plan.tests:
        fields = len({score.id for score in results.scores if score.test == test})
        if fields < FEW:
            found.append(
                f"{plan.test_title(test)} has {fields} fields: with so few, small differences cannot be told "
                f"from chance, and no significant difference does not mean that there is none."
            )
    if len(plan.seeds) < PAPER_SEEDS:
        times = trainings(len(plan.seeds))
        found.append(f"This is of {times} of each segmenter; the paper has {trainings(PAPER_SEEDS)}.")
    if not plan.annotators:
        found.append("There is one annotator: no row says how well annotators agree.")
    if selected[0] < FEW:
        found.append(f"{selected[1]} fields of each generator were painted from {selected[0]} selected ones.")
    said: dict[str, list[str]] = defaultdict(list)
    for name, fidelity in fidelities.items():
        for text in fidelity["warnings"]:
            said[text].append(generator_title(plan, name))
    return found + [f"Fidelity of {' and '.join(titles)}: {text}" for text, titles in said.items()]


def _segmentation(results: Results, table: Table1, words: str, comparisons: Sequence[Comparison]) -> Section:
    plan = results.plan
    heads = ["", *(heading(metric) for metric in table.metrics.values())]
    last = list(table.tests)[-1]
    tables = [
        Table(
            f"{title}, as Table 1 of the paper",
            heads,
            [[name, *(table.text(test, row, m) for m in table.metrics)] for row, name in table.rows.items()],
            words if test == last else "",
        )
        for test, title in table.tests.items()
    ]
    rows = [
        [
            plan.test_title(one.test),
            table.metrics[one.metric].title,
            plan.title(one.first),
            plan.title(one.second),
            one.fields,
            one.difference,
            one.p,
            one.corrected,
        ]
        for one in comparisons
    ]
    tables.append(
        Table(
            "Every comparison",
            ["Test set", "Metric", "A", "B", "Fields", "B - A", "p", "p, corrected"],
            rows,
            "B - A is the mean difference over fields, in the metric's own unit. Two-sided Wilcoxon "
            "signed-rank test, corrected by Holm over the comparisons of a test set.",
        )
    )
    shown = []
    arms = [row for row in table.rows if row != AGREEMENT]
    for test, title in table.tests.items():
        for name, metric in table.metrics.items():
            scale = 100 if percent(metric) else 1
            values = [[v * scale for v in results.by_field(arm, test, name).values()] for arm in arms]
            if not np.isfinite([v for group in values for v in group]).any():
                continue  # the table shows that there is nothing
            medians = ", ".join(
                f"{plan.title(arm)} {float(np.nanmedian(v)):.4g}"
                for arm, v in zip(arms, values, strict=True)
                if np.isfinite(v).any()
            )
            shown.append(
                Figure(
                    f"{title}: {metric.title}",
                    "A point is a field: its mean over trainings. The box holds the middle half.",
                    f"{metric.title} of the fields of {title}, medians: {medians}.",
                    strips([plan.title(arm) for arm in arms], values, heading(metric)),
                )
            )
    return Section("Segmentation", (), shown, tables)


def _shape_words(
    plan: Plan, values: Mapping[tuple[str, str], Values], selected: tuple[int, int]
) -> list[str]:
    found = [
        f"{selected[0]} training fields were selected ({plan.selection.where or 'all'}), and each generator "
        f"painted {selected[1]} from their masks, {plan.synthesis.versions} versions of each."
    ]
    for kind in plan.kinds:
        parts = [
            f"{name} {v.mean():.3f} ({v.size})" for name, v in sets(plan, values, kind).items() if v.size
        ]
        found.append(f"Mean eccentricity of each {kind} (instances): {', '.join(parts)}.")
    return found


def _fidelity(plan: Plan, fidelities: Fidelities, drawn: list[Figure]) -> Section:
    names = list(fidelities)
    keys = list(dict.fromkeys(key for one in fidelities.values() for key in one["numbers"]))
    distance = "Wasserstein distance of groups"
    rows = [
        [f"{distance}, matching", *(pair(fidelities[n]["matching"]) for n in names)],
        [f"{distance}, not matching", *(pair(fidelities[n]["non_matching"]) for n in names)],
        [f"{distance}, halves: painted against real", *(halves(fidelities[n], "painted") for n in names)],
        [f"{distance}, halves: real against real", *(halves(fidelities[n], "real") for n in names)],
        *([key, *(fidelities[n]["numbers"].get(key) for n in names)] for key in keys),
    ]
    table = Table(
        "Fidelity",
        ["", *(generator_title(plan, name) for name in names)],
        rows,
        f"Fields of split {plan.fidelity_split}, painted with their own masks, colours and metadata, beside "
        f"the real ones; features by {plan.fidelity.embedder.type}. What halves of the real fields "
        f"are from each other is what a perfect generator would reach. It is of half as many fields, which "
        f"alone makes distances larger, and is to be held against painted halves, which are of as many.",
    )
    return Section("Fidelity", (), drawn, [table])


def _everything(results: Results, every: Mapping[str, MaskMetric], agreement: bool) -> Section:
    """All metrics of all arms, whatever they say."""
    plan = results.plan
    tables = []
    for test in plan.tests:
        rows = []
        for name, metric in every.items():
            row = [heading(metric)]
            if agreement:
                row.append(show(results.between_annotators(test, name), metric))
            rows.append([*row, *(show(results.mean(arm, test, name), metric) for arm in plan.arms)])
        columns = ["Metric", *([AGREEMENT] if agreement else []), *map(plan.title, plan.arms)]
        title = f"All metrics: {plan.test_title(test)}"
        tables.append(Table(title, columns, rows, "Mean ± sd over trainings; not tested."))
    return Section("All metrics of all arms", ["Nothing that was measured is left out."], (), tables)


def _significance(comparisons: list[Comparison]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ["test", "metric", "first", "second", "fields", "difference", "p", "corrected"]
    writer.writerow(names)
    for one in comparisons:
        values = [getattr(one, name) for name in names]
        writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in values])
    return text.getvalue()
