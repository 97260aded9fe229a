"""Wilcoxon, Holm, means and marks against known answers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msdm_kit.plugins.experiment.plan import Plan
from msdm_kit.plugins.experiment.results import Figure, Results, Score, read_scores, write_scores
from msdm_kit.plugins.experiment.significance import Comparison, compare, correct, holm, signed_rank
from msdm_kit.plugins.experiment.table import Cell, make_table, note, show, to_csv, to_markdown
from msdm_kit.plugins.metrics.masks import METRICS

# Darwin's maize: heights of cross- and self-fertilised plants of 15 pairs, in eighths of an inch (Fisher, The
# Design of Experiments, 1935, section 17). The sum of negative ranks is 24; two of the ranks are tied.
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def by_enumeration(differences):
    """The exact two-sided p-value over all signs."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    observed = sum(r for r, d in zip(ranks, differences, strict=True) if d > 0)
    middle = ranks.sum() / 2
    sums = [sum(r for r, s in zip(ranks, signs, strict=True) if s) for signs in
            itertools.product((0, 1), repeat=len(ranks))]  # fmt: skip
    return np.mean([abs(s - middle) >= abs(observed - middle) - 1e-9 for s in sums])


def test_signed_rank_of_darwins_maize():
    # the table of the distribution: P(T <= 24) = 0.0206 for n = 15
    assert signed_rank(DARWIN) == pytest.approx(0.0413, abs=5e-4)


def test_signed_rank_of_five_alike_is_a_sixteenth():
    assert signed_rank([1, 2, 3, 4, 5]) == 2 / 32
    assert signed_rank([-1, -2, -3, -4, -5]) == 2 / 32


def test_signed_rank_leaves_zeros_out():
    assert signed_rank([0, 0, 1, 2, 3, 4, 5]) == 2 / 32
    assert signed_rank([0, 0, 0]) == 1
    assert math.isnan(signed_rank([]))


def test_signed_rank_does_not_rank_the_rounding_of_means():
    noise = 0.1 + 0.2 - 0.3  # nothing but rounding
    assert noise != 0
    assert signed_rank([noise, noise, noise]) == 1
    plain = [0.1, -0.1, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert plain[2] != 0.3 - 0.2
    assert signed_rank([*plain[:2], 0.3 - 0.2, *plain[3:], -noise]) == signed_rank(plain)


@given(st.lists(st.integers(-1000, 1000).filter(bool), min_size=1, max_size=9, unique_by=abs))
def test_signed_rank_is_the_share_of_signs(differences):
    assert signed_rank(differences) == pytest.approx(by_enumeration(np.array(differences)))


def test_holm_of_a_textbook():
    # Holm 1979: p(1) x 4, p(2) x 3 ..., each at least the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_holm_does_not_count_what_was_not_tested():
    corrected = holm([0.02, math.nan, 0.03])
    assert corrected[0] == pytest.approx(0.04)
    assert math.isnan(corrected[1])
    assert corrected[2] == pytest.approx(0.04)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_what_the_procedure_rejects(p, level):
    rejected, order = set(), sorted(range(len(p)), key=lambda i: p[i])
    for rank, i in enumerate(order):
        if p[i] * (len(p) - rank) >= level:
            break
        rejected.add(i)
    assert {i for i, value in enumerate(holm(p)) if value < level} == rejected


def test_fields_are_paired_by_id_and_those_without_a_value_left_out():
    values = {"a": {"x": 1.0, "y": 2.0, "z": math.nan, "only": 9.0}, "b": {"y": 2.5, "x": 2.0, "z": 3.0}}
    found = compare("t", "m", "a", "b", values)
    assert (found.fields, found.difference) == (2, 0.75)
    assert math.isnan(found.corrected)


def plan(**changes):
    return Plan.model_validate(
        {
            "name": "p",
            "tests": {"t": {"split": "s", "title": "Columnar"}},
            "generators": {"sdm": {"recipe": "sdm"}, "msdm": {"recipe": "msdm"}},
            "arms": {
                "baseline": {"title": "Baseline"},
                "sdm": {"generators": ["sdm"], "title": "SDM"},
                "msdm": {"generators": ["msdm"], "title": "MSDM"},
            },
            "seeds": 2,
            **changes,
        }
    )  # fmt: skip


def scores(metric, arm, by_seed, annotators=("truth",)):
    return [
        Score("t", f"f{i}", arm, seed, "cell", metric, annotator, value)
        for seed, values in enumerate(by_seed)
        for annotator in annotators
        for i, value in enumerate(values)
    ]


def test_means_are_over_seeds_of_means_over_fields():
    found = Results(plan(), scores("cell_f1", "baseline", [[0.5, 0.7, math.nan], [0.8, 1.0, 0.6]]), [])
    assert found.mean("baseline", "t", "cell_f1") == Figure(pytest.approx(0.7), pytest.approx(0.2 / 2**0.5))
    assert found.by_field("baseline", "t", "cell_f1") == pytest.approx({"f0": 0.65, "f1": 0.85, "f2": 0.6})


def test_one_value_has_no_deviation():
    assert Figure.of([0.25]).mean == 0.25
    assert math.isnan(Figure.of([0.25]).deviation)
    assert math.isnan(Figure.of([math.nan]).mean)


def test_the_family_of_a_test_set_is_every_pair_of_arms_by_every_metric():
    base = np.linspace(0.5, 0.6, 12)
    rows = []
    for metric in ("cell_f1", "cell_assd"):
        for arm, shift in (("baseline", 0.0), ("sdm", 0.01), ("msdm", 0.1)):
            rows += scores(metric, arm, [base + shift * np.arange(1, 13)] * 2)
    found = Results(plan(), rows, []).comparisons(["cell_f1", "cell_assd"])
    assert [(c.metric, c.first, c.second) for c in found] == [
        (metric, *pair)
        for metric in ("cell_f1", "cell_assd")
        for pair in (("baseline", "sdm"), ("baseline", "msdm"), ("sdm", "msdm"))
    ]
    # 12 differences of one sign, all others alike: p = 2 / 2^12, and the least of six is multiplied by six
    assert [c.p for c in found] == [2 / 4096] * 6
    assert [c.corrected for c in found] == pytest.approx([12 / 4096] * 6)


def comparison(metric, first, second, corrected, difference=0.1):
    return Comparison("t", metric, first, second, 12, difference, corrected / 6, corrected)


def table_of(comparisons, agreement=False, **changes):
    rows = []
    for metric, values in (("cell_f1", [0.81, 0.83]), ("cell_assd", [1.0, 1.2])):
        for arm in ("baseline", "sdm", "msdm"):
            rows += scores(metric, arm, [[value] for value in values])
    between = [Score("t", "f0", "", 0, "cell", "cell_f1", f"a / {b}", v) for b, v in (("b", 0.9), ("c", 0.8))]
    found = Results(plan(**changes), rows, between if agreement else [])
    metrics = {name: METRICS[name] for name in ("cell_f1", "cell_assd")}
    return make_table(found, metrics, comparisons, agreement), found, metrics


def test_marks_are_those_of_the_paper():
    table, _, _ = table_of(
        [
            comparison("cell_f1", "baseline", "sdm", 0.04),
            comparison("cell_f1", "baseline", "msdm", 0.001),
            comparison("cell_f1", "sdm", "msdm", 0.049),
            comparison("cell_assd", "baseline", "sdm", 0.05),
            comparison("cell_assd", "sdm", "msdm", 0.01),
        ]
    )
    assert table.text("t", "baseline", "cell_f1") == "82.00 ± 1.41"
    assert table.text("t", "sdm", "cell_f1") == "82.00 ± 1.41 *"
    assert table.text("t", "msdm", "cell_f1") == "82.00 ± 1.41 * ×"
    assert table.text("t", "sdm", "cell_assd") == "1.10 ± 0.14"  # 0.05 is not below 0.05
    assert table.text("t", "msdm", "cell_assd") == "1.10 ± 0.14 ×"


def test_a_third_generator_is_named():
    third = {"recipe": "msdm", "title": "C"}
    base = plan().model_dump(mode="json")
    generators = {**base["generators"], "c": third}
    arms = {**base["arms"], "c": {"generators": ["c"], "title": "C"}}
    table, _, _ = table_of([], generators=generators, arms=arms)
    cell = Cell(Figure(0.5, 0.1), ("baseline", "sdm", "msdm"))
    assert table.marks(cell) == "* ×SDM ×MSDM"


def test_the_row_of_annotators_is_first_and_over_their_pairs():
    table, _, _ = table_of([], agreement=True)
    assert list(table.rows) == ["IPA", "baseline", "sdm", "msdm"]
    assert table.text("t", "IPA", "cell_f1") == "85.00 ± 7.07"
    assert table.text("t", "IPA", "cell_assd") == "–"


def test_the_table_as_markdown_and_csv():
    table, found, metrics = table_of([comparison("cell_f1", "baseline", "sdm", 0.04)])
    words = note(found, metrics)
    lines = to_markdown(table, words).splitlines()
    assert lines[0] == "**Columnar**"
    assert lines[2] == "|  | F1 of cell centres, % ↑ | ASSD of cell outlines, px ↓ |"
    assert lines[5] == "| SDM | 82.00 ± 1.41 \\* | 1.10 ± 0.14 |"
    assert "Holm's correction over the 6 comparisons" in words
    assert "Paired units are fields" in words
    rows = to_csv(table).splitlines()
    assert rows[0] == "test,row,metric,mean,sd,differs_from"
    assert rows[2].startswith("t,sdm,cell_f1,0.82")
    assert rows[2].endswith(",baseline")


def test_shares_are_percent_and_lengths_are_not():
    assert show(Figure(0.5, math.nan), METRICS["cell_pq"]) == "50.00"
    assert show(Figure(0.5, 0.25), METRICS["nucleus_assd"]) == "0.50 ± 0.25"


def test_scores_are_read_back_as_they_were_written(tmp_path):
    rows = [*scores("cell_f1", "sdm", [[0.1 + 0.2, 1 / 3], [math.nan, 1.0]]),
            Score("t", "f0", "", 0, "cell", "cell_f1", "a / b", 0.5)]  # fmt: skip
    write_scores(tmp_path / "s.csv", rows)
    assert str(read_scores(tmp_path / "s.csv")) == str(rows)


def test_correcting_keeps_the_order():
    found = correct([comparison("cell_f1", "a", "b", 0.6), comparison("cell_assd", "a", "b", 0.06)])
    assert [(c.metric, round(c.corrected, 9)) for c in found] == [("cell_f1", 0.1), ("cell_assd", 0.02)]
