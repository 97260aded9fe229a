"""Table 1 of the MSDM paper."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..metrics.base import MaskMetric
from .results import Figure, Results
from .significance import Comparison

STAR, CROSS = "*", "×"
AGREEMENT = "IPA"
DIGITS = 2


@dataclass(frozen=True)
class Cell:
    """A figure of an arm, and what it differs from significantly: arms, the baseline first."""

    figure: Figure
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table1:
    """The table.

    Attributes
    ----------
    tests : dict of test -> title
    metrics : dict of name -> MaskMetric
        The columns.
    rows : dict of row -> title
        ``IPA`` where there are several annotators, then the arms, the baseline first.
    cells : dict of (test, row, metric) -> Cell
    baseline : str
    """

    tests: Mapping[str, str]
    metrics: Mapping[str, MaskMetric]
    rows: Mapping[str, str]
    cells: Mapping[tuple[str, str, str], Cell]
    baseline: str

    def marks(self, cell: Cell) -> str:
        """`*` differs from the baseline, `×` from another generator's arm, named where there are several."""
        others = [name for name in cell.differs if name != self.baseline]
        arms = [name for name in self.rows if name not in (self.baseline, AGREEMENT)]
        crosses = [CROSS if len(arms) <= 2 else f"{CROSS}{self.rows[name]}" for name in others]
        return " ".join([*([STAR] if self.baseline in cell.differs else []), *crosses])

    def text(self, test: str, row: str, metric: str) -> str:
        """A cell as the paper prints it: ``82.30 ± 0.87 * ×``; shares in percent."""
        cell = self.cells[test, row, metric]
        shown = show(cell.figure, self.metrics[metric])
        marks = self.marks(cell)
        return f"{shown} {marks}" if marks else shown


def percent(metric: MaskMetric) -> bool:
    """Whether a metric is a share, which the table shows in percent: all but lengths, whose title says px."""
    return "px" not in metric.title.split()


def show(figure: Figure, metric: MaskMetric) -> str:
    """A mean with its deviation, where there is one."""
    if math.isnan(figure.mean):
        return "–"
    scale = 100 if percent(metric) else 1
    mean = f"{figure.mean * scale:.{DIGITS}f}"
    if math.isnan(figure.deviation):
        return mean
    return f"{mean} ± {figure.deviation * scale:.{DIGITS}f}"


def make_table(
    results: Results,
    metrics: Mapping[str, MaskMetric],
    comparisons: Sequence[Comparison],
    agreement: bool,
) -> Table1:
    """Make the table.

    Parameters
    ----------
    results : Results
    metrics : mapping name -> MaskMetric
        The columns.
    comparisons : sequence of Comparison
        Of these metrics; see `Results.comparisons`.
    agreement : bool
        Whether there is a row for the agreement of annotators.
    """
    plan = results.plan
    arms = [plan.baseline, *(name for name in plan.arms if name != plan.baseline)]
    rows = {**({AGREEMENT: AGREEMENT} if agreement else {}), **{arm: plan.title(arm) for arm in arms}}
    cells: dict[tuple[str, str, str], Cell] = {}
    for test in plan.tests:
        for metric in metrics:
            if agreement:
                cells[test, AGREEMENT, metric] = Cell(results.between_annotators(test, metric))
            for arm in arms:
                differs = tuple(
                    one.first
                    for one in comparisons
                    if (one.test, one.metric, one.second) == (test, metric, arm)
                    and one.corrected < plan.significance.level
                )
                cells[test, arm, metric] = Cell(results.mean(arm, test, metric), differs)
    titles = {test: plan.test_title(test) for test in plan.tests}
    return Table1(titles, metrics, rows, cells, plan.baseline)


def heading(metric: MaskMetric) -> str:
    """A column's head: title, unit, and which way is better."""
    unit = ", %" if percent(metric) else ""
    return f"{metric.title}{unit} {'↑' if metric.better == 'higher' else '↓'}"


def trainings(count: int) -> str:
    """A number of trainings."""
    return "1 training" if count == 1 else f"{count} trainings"


def note(results: Results, metrics: Mapping[str, MaskMetric]) -> str:
    """What the table's numbers and marks are, in words."""
    plan = results.plan
    arms = len(plan.arms)
    family = arms * (arms - 1) // 2 * len(metrics)
    seeds, readers = len(plan.seeds), 1 + len(plan.annotators)
    ipa = f"{AGREEMENT}: mean ± sd over the pairs of {readers} annotators. " if readers > 1 else ""
    return (
        f"Mean ± sd over {trainings(seeds)} of the segmenter; the value of a training is the mean over fields"
        f"{' and annotators' if readers > 1 else ''}. {ipa}"
        f"Significant differences (p < {plan.significance.level:g}, two-sided Wilcoxon signed-rank test, "
        f"Holm's correction over the {family} comparisons of a test set): {STAR} from "
        f"{plan.title(plan.baseline)}, {CROSS} from an arm above with another generator. A mark says that "
        f"arms differ, the means say which is better. Paired units are fields: of each, the mean over "
        f"trainings{' and annotators' if readers > 1 else ''}."
    )


def to_markdown(table: Table1, words: str) -> str:
    """The table as Markdown, a part for each test set."""
    parts = []
    for test, title in table.tests.items():
        parts.append(f"**{title}**\n")
        heads = ["", *(heading(metric) for metric in table.metrics.values())]
        parts.append("| " + " | ".join(heads) + " |")
        parts.append("|" + "---|" * len(heads))
        for row, name in table.rows.items():
            cells = [table.text(test, row, metric).replace("*", "\\*") for metric in table.metrics]
            parts.append("| " + " | ".join([name, *cells]) + " |")
        parts.append("")
    return "\n".join([*parts, words.replace("*", "\\*"), ""])


def to_csv(table: Table1) -> str:
    """The table as CSV: a row per test set, row and metric, numbers in full and in their own unit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["test", "row", "metric", "mean", "sd", "differs_from"])
    for (test, row, metric), cell in table.cells.items():
        numbers = [
            "" if math.isnan(value) else repr(value) for value in (cell.figure.mean, cell.figure.deviation)
        ]
        writer.writerow([test, row, metric, *numbers, " ".join(cell.differs)])
    return text.getvalue()
