"""Drawings: what is drawn, in the page's colours, whatever names and numbers come."""

import io
import re
import warnings

import numpy as np
import pytest
from PIL import Image

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.pictures import SheetRow
from msdm_kit.plugins.report import figures
from msdm_kit.plugins.report.canvas import SERIES, canvas, svg
from msdm_kit.plugins.report.html import render
from msdm_kit.plugins.report.page import Figure, Report, Section
from msdm_kit.plugins.report.pictures import outline_words, png, sheet, tiles

from ..pages import HOSTILE, checked

X = np.arange(30.0)
GAPS = np.array([np.nan, 1.0, np.inf, 2.0])
NAMES = [HOSTILE, "plain", "a name \x00\x1b\udcff that goes on and on and on and on and on", "日本語 العربية"]


def drawings(names: list[str], numbers: np.ndarray) -> dict[str, bytes]:
    values = {name: numbers for name in names}
    points = np.stack([np.resize(numbers, 12), np.resize(numbers, 12)[::-1]], axis=1)
    return {
        "histograms": figures.histograms(values, names[0]),
        "distributions": figures.distributions(values, names[0]),
        "strips": figures.strips(values, names[0], limits=(0, 1)),
        "intervals": figures.intervals(
            {n: (numbers[-1], numbers[0], 3.0) for n in names}, names[0], reference=1
        ),
        "curves": figures.curves({n: (numbers, numbers) for n in names}, names[0], names[0], log=True),
        "scatter": figures.scatter(points, np.resize(names, 12).tolist(), np.resize(names[:2], 12).tolist()),
        "matrix": figures.matrix(np.resize(numbers, (len(names),) * 2), names, names, label=names[0]),
        "wide": figures.matrix(np.resize(numbers, (len(names), 2)), names, ["a", names[0]], label="x"),
    }


def page(contents: dict[str, bytes]):
    shown = [Figure(name, "caption", "alt", content) for name, content in contents.items()]
    return checked(render(Report("drawings", sections=[Section("all", figures=shown)])))


@pytest.mark.parametrize("numbers", [X, GAPS, np.zeros(3), np.full(2, np.nan), np.array([1e-30, 1e30])])
def test_any_names_and_numbers(numbers):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = page(drawings(NAMES, numbers))
    assert found.count("svg") == 8
    assert "\\frac{1}{2}" in found.said or np.isnan(numbers).all()


def test_no_groups_at_all():
    nothing = {
        "histograms": figures.histograms({}, "x"),
        "distributions": figures.distributions({}, "x"),
        "strips": figures.strips({"empty": []}, "x"),
        "intervals": figures.intervals({}, "x"),
        "curves": figures.curves({}, "x", "y"),
        "scatter": figures.scatter(np.zeros((0, 2)), [], []),
        "matrix": figures.matrix(np.zeros((0, 0)), [], [], label="x"),
    }
    assert page(nothing).count("svg") == 7


def test_colours_are_the_pages_and_bytes_are_the_same_again():
    first, again = (drawings(["a", "b"], X) for _ in range(2))
    assert first == again
    for name, content in first.items():
        text = content.decode()
        assert "currentColor" in text or "var(--" in text, name
        assert "#0100" not in text, name
        if name not in ("matrix", "wide"):
            assert not re.search("#000000|#ffffff", text), name
        assert "<dc:date>" not in text


def test_a_matrix_shows_its_numbers_and_frames_the_diagonal():
    same = figures.matrix(
        [[1.25, 2], [3, np.nan]], ["x/y", "z"], ["x/y", "z"], label="W1", axes=("real", "made")
    )
    words = re.findall(r"<text[^>]*>([^<]*)</text>", same.decode())
    assert {"1.25", "2", "3", "–", "x/y 1", "z 2", "1", "made", "real", "colour and number: W1"} <= {
        " ".join(word.split()) for word in words
    }
    other = figures.matrix([[1.25, 2], [3, 4]], ["x/y", "z"], ["p", "q"], label="W1")
    frames = [len(re.findall(r'style="fill: none; stroke: #', drawn.decode())) for drawn in (same, other)]
    assert frames == [1, 0], "the diagonal's NaN has no frame"


def test_a_strip_says_median_and_number():
    text = figures.strips({"a": [1, 2, 4, np.nan]}, "x").decode()
    assert "a: median 2.000, n 3" in text


def test_many_points_are_thinned():
    few, many = (
        figures.scatter(np.random.default_rng(0).normal(size=(n, 2)), ["a"] * n, ["o"] * n)
        for n in (figures.POINTS, 3 * figures.POINTS)
    )
    assert len(many) < 1.2 * len(few)
    assert "1 point in 3 drawn" in many.decode()
    assert "drawn<" not in few.decode()


def test_a_strip_of_which_not_all_is_drawn_says_so():
    text = figures.strips({"a": np.arange(figures.POINTS + 1), "b": [1, 2]}, "x").decode()
    assert f"n {figures.POINTS + 1}, 1 point in 2 drawn" in text
    assert text.count("drawn") == text.count(f"n {figures.POINTS + 1}, 1 point in 2 drawn")


def test_more_groups_than_colours_differ_in_form():
    names = [f"g{i}" for i in range(2 * len(SERIES))]
    text = figures.scatter(np.zeros((len(names), 2)), names, ["o"] * len(names)).decode()
    forms = re.findall(r'<path id="(m\w+)"', text)
    assert len(set(forms)) >= 2
    legend = [line for line in names if f">{line}<" in text]
    assert legend == names


def test_a_drawing_of_ones_own():
    figure, (axis,) = canvas(2, 1)
    axis.plot([0, 1], color=SERIES[3])
    axis.set_title("$x$")
    text = svg(figure).decode()
    assert "var(--s3)" in text
    assert "$x$" in text


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_pictures():
    red = np.full((10, 20, 3), (200, 0, 0), np.uint8)
    assert opened(png(red)).size == (20, 10)
    assert opened(png(red, 10)).size == (10, 5)
    rows = tiles([[red, red.transpose(1, 0, 2)], [red, red]], ["one", "two"], ["a" * 300, ""], side=40)
    picture = opened(rows)
    assert picture.width == 2 * 40 + 3 * 8
    assert np.asarray(picture)[40, 20].tolist() == [200, 0, 0], "enlarged four times, below the head"
    assert outline_words(["nucleus", "cell"]) == "cell cyan, nucleus yellow"
    image = np.zeros((3, 16, 16), np.float32)
    whole = SheetRow("x", image, {"cell": np.ones((16, 16), np.int32)}, image)
    assert opened(sheet([whole], side=100)).width == 100
    for bad in ([], [[red]]):
        with pytest.raises(MsdmError, match="a picture per column"):
            tiles(bad, ["one", "two"], ["x"])
