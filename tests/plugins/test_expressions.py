"""Expressions: what Python itself would say, missing values, and one clear line for each mistake."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.expressions import compile_expression, condition, number
from msdm_kit.plugins.properties import Field
from msdm_kit.plugins.vocabulary import Vocabulary

ROWS = [
    {"id": "a", "assay": "HER2", "age": "50", "dose": "2.5", "tumour stage": "II", "code": "007"},
    {"id": "b", "assay": "ER", "age": "", "dose": "-1e1", "tumour stage": "", "code": "12"},
]
WORDS = Vocabulary.of(ROWS, ("cell", "nucleus"))
MEASURED = {
    ("cell", "area"): [10.0, 20.0, 30.0, 40.0],
    ("cell", "area_convex"): [10.0, 25.0, 30.0, 0.0],
    ("nucleus", "area"): [],
    ("nucleus", "eccentricity"): [],
}


def field(row=0):
    return Field(
        None,
        ROWS[row],
        _labels={"cell": np.ones((10, 20), np.uint8), "nucleus": np.zeros((10, 20), np.uint8)},
        _measured={key: np.array(values, float) for key, values in MEASURED.items()},
    )


def says(text, row=0):
    return bool(condition(text, WORDS).value(field(row)))


@pytest.mark.parametrize(
    "text",
    [
        "age > 49 and assay == 'HER2'",
        "40 < age <= 50",
        "not (age > 50 or dose != 2.5)",
        "age / 2 - 5 * dose + 1 == 13.5",
        "-dose < +age",
        "assay in ['HER2', 'ER'] and age in (50, 51) and dose not in [1, -1]",
        "assay > 'HER' and 'A' < assay < 'Z'",
        "code == '007' and code != '7' and code == 7 and code in ['007']",
        "column('tumour stage') == 'II' and column('age') == 50",
        "count_cell == 4 and mean_cell_area == 25 and width == 2 * height",
        "any(cell.area > 35) and not all(cell.area > 15)",
        "count(cell.area > 15) == 3 and fraction(cell.area >= 30) == 0.5",
        "mean(cell.area * 2) == 50 and max(cell.area - mean_cell_area) == 15",
        "fraction(cell.area > 10 * dose and assay == 'HER2') == 0.5",
        "count(nucleus.area > 0) == 0 and not any(nucleus.area > 0)",
        "'HER2' == assay\n  and age > 3",
    ],
)
def test_what_is_true(text):
    assert says(text)
    assert not says(f"not ({text})")


@pytest.mark.parametrize(
    "text",
    [
        "age > 0",
        "age <= 0",
        "age != 3",
        "age in [1]",
        "age not in [1]",
        "1 < age < 9",
        "age + 1 > 0",
        "column('tumour stage') != 'I'",
        "column('tumour stage') not in ['I']",
        "mean_nucleus_area > 0",
        "mean_nucleus_area < 9",
        "fraction(nucleus.area > 1) >= 0",
        "dose / 0 != 1",
        "dose / (age - age) > 0",
    ],
)
def test_what_is_missing_compares_false_and_is_said(text):
    one = field(1)
    assert not condition(text, WORDS).value(one)
    assert one.missing


def test_who_asks_for_what_is_missing_finds_it():
    assert says("age == '' and column('tumour stage') == ''", 1)
    assert not says("age == ''", 0)
    one = field(1)
    assert condition("assay == 'ER' or assay == 'x'", WORDS).value(one)
    assert not one.missing


def test_a_missing_instance_is_left_out():
    one = field()
    assert number("min(cell.area / cell.area_convex)", WORDS).value(one) == 0.8
    assert one.missing
    one = field()
    assert number("count(cell.area / cell.area_convex != 1)", WORDS).value(one) == 1
    assert one.missing


NUMBERS = ("a", "b", "c")
TEXTS = ("s", "t")


def arithmetic():
    atom = st.one_of(
        st.sampled_from(NUMBERS), st.integers(0, 9).map(str), st.floats(0.1, 9.0).map(lambda x: f"{x:.2f}")
    )
    return st.recursive(
        atom,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
            inner.map(lambda x: f"(-{x})"),
        ),
        max_leaves=5,
    )


def conditions():
    sign = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    text = st.one_of(st.sampled_from(TEXTS), st.sampled_from(["'x'", "'yé'", '"z"']))
    listed = st.lists(st.integers(-3, 9).map(str), min_size=1, max_size=3).map(lambda v: f"[{', '.join(v)}]")
    atom = st.one_of(
        st.tuples(arithmetic(), sign, arithmetic()).map(" ".join),
        st.tuples(arithmetic(), sign, arithmetic(), sign, arithmetic()).map(" ".join),
        st.tuples(text, sign, text).map(" ".join),
        st.tuples(arithmetic(), st.sampled_from(["in", "not in"]), listed).map(" ".join),
        text.map(lambda x: f"{x} in ('x', 'z')"),
    )
    return st.recursive(
        atom,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
            inner.map(lambda x: f"not {x}"),
            inner.map(lambda x: f"({x})"),
        ),
        max_leaves=6,
    )


@settings(max_examples=300, deadline=None)
@given(
    conditions(),
    st.tuples(*[st.sampled_from([-2.5, -1.0, 0.0, 0.5, 1.0, 3.0])] * 3),
    st.tuples(*[st.sampled_from(["x", "yé", "w"])] * 2),
)
def test_it_says_what_python_says(text, numbers, texts):
    names = {**dict(zip(NUMBERS, numbers, strict=True)), **dict(zip(TEXTS, texts, strict=True))}
    row = {name: str(value) for name, value in names.items()}
    try:
        wanted = eval(text, {"__builtins__": {}}, names)
    except ZeroDivisionError:
        return  # missing here, as tested above
    assert bool(condition(text, Vocabulary.of([row], ())).value(Field(None, row))) == wanted


def test_the_named_terms_in_their_order():
    text = "age > 3 and (assay == 'x' or fraction(cell.area > count_cell) > 0.1) and -mean_cell_area < age"
    labels = [term.label for term in condition(text, WORDS).named()]
    assert labels == ["age", "assay", "fraction(cell.area > count_cell)", "mean_cell_area", "age"]


def test_a_column_is_of_numbers_where_all_that_is_there_is_one():
    rows = [{"id": "1", "x": "1", "y": "1", "z": ""}, {"id": "2", "x": "", "y": "n/a", "z": ""}]
    words = Vocabulary.of([*rows, {"id": "3", "x": " 2.5e-3 ", "y": "2", "z": " "}], ())
    assert [words.columns[name][0] for name in ("id", "x", "y", "z")] == [True, True, False, False]
    for text in ("nan", "inf", "1e999", "1_000", "0x1", "٣"):
        assert not Vocabulary.of([{"id": "a", "x": text}], ()).columns["x"][0]


def test_a_measured_property_goes_before_a_column_of_its_name():
    words = Vocabulary.of([{"id": "a", "count_cell": "77"}], ("cell",))
    one = Field(
        None, {"id": "a", "count_cell": "77"}, **{k: v for k, v in vars(field()).items() if k[0] == "_"}
    )
    assert condition("count_cell == 4 and column('count_cell') == 77", words).value(one)
    assert words.shadowed(["count_cell", "id"]) == ["count_cell"]


MISTAKES = [
    ("", "is empty"),
    ("  ", "is empty"),
    ("age", "'age' is a number, no condition"),
    ("assay", "is a text, no condition"),
    ("assay = 'x'", "at character 7, near \"= 'x'\": invalid syntax", "write =="),
    ("age > 3 && dose > 1", "character 10", "write and, or"),
    ("age > 3 | dose > 1", "write or, not the sign"),
    ("!age > 3", "write not"),
    ("age > ", "character 6, near its end"),
    ("(age > 3", "character 1", "never closed"),
    ("age > 'old", "character 7", "unterminated"),
    ("mean_cel_eccentricity > 1", "no property", "did you mean 'mean_cell_eccentricity'"),
    ("asay == 'x'", "did you mean 'assay'", "columns (id, assay"),
    ("mean_cell_orientation > 1", "no property 'mean_cell_orientation'"),
    ("assay > 3", "character 9", "assay holds texts, such as 'HER2'"),
    ("3 < 'x'", "'x' is a text"),
    ("age < '60'", "column 'age' holds numbers"),
    ("count_cell == '4'", "count_cell is a number"),
    ("assay + 1 > 2", "a number is needed here", "'HER2'"),
    ("not age", "character 5", "a condition is needed here; compare it"),
    ("(age > 1) == (dose > 1)", "join it with and, or"),
    ("age == True", "True is neither a number nor a quoted text"),
    ("age is 3", "not part of the language"),
    ("age == None", "None is neither"),
    ("assay in 'HER2'", "a list of numbers or of quoted texts"),
    ("assay in []", "a list of"),
    ("assay in ['a', 1]", "a list of"),
    ("assay in [assay]", "a list of"),
    ("assay in [1]", "quote what is in the list"),
    ("count_cell in ['1']", "count_cell is a number"),
    ("(age > 1) in [1]", "is a condition"),
    ("cell.area > 3", "write mean_cell_area, or a function"),
    ("any(cells.area > 3)", "no mask kind 'cells'; did you mean 'cell'"),
    ("any(cell.size > 3)", "no property 'size' of instances", "legal: area"),
    ("any(cell.area > nucleus.area)", "those of cell and nucleus"),
    ("any(age > 3)", "it names none"),
    ("any(cell.area)", "cell.area is a number, and a condition is needed"),
    ("mean(cell.area > 3) > 1", "is a condition, and a number is needed"),
    ("any(cell.area > mean(cell.area))", "within another function"),
    ("any() ", "takes one condition, and here are 0"),
    ("max(cell.area, 3) > 1", "takes one number, and here are 2"),
    ("summe(cell.area) > 1", "no function 'summe'"),
    ("column('stage') == 'x'", "no column 'stage'"),
    ("column(age) > 1", "no function 'column'"),
    ("any(cell.area > 3, key=1)", "not part of the language"),
    ("age ** 2 > 3", "'age ** 2' is not part of the language"),
    ("1e999 > age", "too large"),
    ("9" * 5000 + " > age", "cannot be read"),
    ("age > " + "1+" * 300 + "1", "more than 100 levels deep"),
    ("(" * 500 + "age" + ")" * 500 + " > 1", "too many nested"),
    ("- " * 20000 + "age > 1", "nested too deeply"),
    ("a" * 100_001, "100001 characters"),
    ("age > 1\0", "cannot be read"),
    ("'é' < age", "at character 7 of", "column 'age' holds numbers"),
    ("[x for x in age]", "not part of the language"),
    ("f'{age}' == '3'", "not part of the language"),
    ("age if age else 3", "not part of the language"),
    ("(lambda: age)() > 1", "not part of the language"),
    ("age.real.imag > 1", "not part of the language"),
    ("(age := 3) > 1", "not part of the language"),
    ("__import__('os').system('true') == 0", "not part of the language"),
    ("age; import os", "character 4"),
]


@pytest.mark.parametrize("case", MISTAKES, ids=[case[0][:30] for case in MISTAKES])
def test_a_mistake_is_one_line(case):
    text, *words = case
    with pytest.raises(MsdmError) as caught:
        condition(text, WORDS)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("age dose'\"()[]<>=!+-*/.,_and or not in 019:{}@^~%\\\n\té"), max_size=30))
def test_no_text_is_more_than_a_mistake(text):
    with contextlib.suppress(MsdmError):
        assert compile_expression(text, WORDS).type in ("number", "text", "condition")


def test_a_number_is_asked_for():
    assert number("-age", WORDS).value(field()) == -50
    with pytest.raises(MsdmError, match="is a text, and here a number is needed"):
        number("assay", WORDS)
