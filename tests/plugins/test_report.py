"""Reports: whole, self-contained, escaped, the same for the same, and written whole or not at all."""

import io
import math
import re
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.report.html import render, write_report
from msdm_kit.plugins.report.numbers import cell, four_digits, settings_rows
from msdm_kit.plugins.report.page import Figure, Report, Section, Table
from msdm_kit.plugins.report.provenance import provenance

from ..pages import HOSTILE, checked

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M0 0L9 9" stroke="red"/></svg>'


def png(width: int = 30, height: int = 20) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 0, 0)).save(file, "PNG")
    return file.getvalue()


def figure(content: bytes = SVG, words: str = "words") -> Figure:
    return Figure(words, words, words, content)


def page(*figures: Figure, tables: tuple[Table, ...] = (), **more) -> str:
    return render(Report("title", sections=[Section("section", ["text"], figures, tables)], **more))


def drawing(markup: str) -> bytes:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="72pt" viewBox="0 0 72 36">{markup}</svg>'
    ).encode()


def test_what_is_given_is_shown_in_order():
    report = Report(
        "A title",
        ["The summary."],
        ["A warning."],
        [
            Section(
                "One",
                ["Some text."],
                [figure(), figure(png())],
                [Table("T", ["a", "b"], [["x", 1]], "Note.")],
            ),
            Section("Two", tables=[Table("U", ["c"], [[2.5]])]),
        ],
        {"data": {"crop": 256}},
        {"version": "1.2"},
    )
    said = checked(render(report)).said.partition("print")[2]
    order = [
        "A title", "The summary.", "A warning.", "One", "Some text.", "Figure 1. words.", "Figure 2. words.",
        "Table 1. T.", "Note.", "Two", "Table 2. U.", "2.500", "Settings", "data.crop", "256", "Provenance",
        "1.2",
    ]  # fmt: skip
    places = [said.index(part) for part in order]
    assert places == sorted(places)


def test_an_empty_report_is_a_page():
    assert checked(render(Report("nothing"))).count("section") == 0


def test_all_text_is_escaped():
    report = Report(
        HOSTILE,
        [HOSTILE],
        [HOSTILE],
        [
            Section(
                HOSTILE, [HOSTILE], [figure(words=HOSTILE)], [Table(HOSTILE, [HOSTILE], [[HOSTILE]], HOSTILE)]
            )
        ]
        * 3,
        {HOSTILE: HOSTILE},
        {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]},
    )
    found = checked(render(report))
    assert "".join(found.words).count(HOSTILE) >= 3 * 8 + 8
    svg = next(attributes for tag, attributes in found.tags if tag == "svg")
    assert svg["aria-label"] == HOSTILE


@given(st.text(max_size=40))
def test_any_text_can_be_shown(text):
    report = Report(
        text, [text], [text], [Section(text, [text], [], [Table(text, [text], [[text]], text)])], {text: text}
    )
    checked(render(report)).text.encode("utf-8")


def test_the_name_of_a_file_that_is_not_utf_8():
    assert "a?b" in page(figure(words="a\udcffb"))


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)))
def test_any_value_is_a_cell(value):
    assert isinstance(cell(value), str)
    if isinstance(value, float) and 0 < abs(value) < 1e300:
        assert float(cell(value)) == pytest.approx(value, rel=6e-4)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"), (math.nan, "–"), (np.float32("nan"), "–"), (math.inf, "∞"), (-math.inf, "-∞"),
        (0.0, "0"),
        (0.123456, "0.1235"), (-0.5, "-0.5000"), (12.0, "12.00"), (9999.96, "10000"), (123456.7, "123500"),
        (1.5e-9, "1.500e-09"), (2.5e12, "2.500e+12"), (3, "3"), (1234567, "1234567"), (np.int64(7), "7"),
        (np.float32(0.25), "0.2500"), (True, "yes"), ("0.83 ± 0.01", "0.83 ± 0.01"), ("", ""),
    ],
)  # fmt: skip
def test_a_cell(value, shown):
    assert cell(value) == shown


def test_settings_are_shown_in_full():
    values = {
        "lr": 0.00012345678,
        "sets": {"b", "a"},
        "none": {},
        "list": [],
        "deep": [{"x": np.float32(0.5)}, [1, 2]],
    }
    assert settings_rows(values) == [
        ("lr", "0.00012345678"), ("sets", "a, b"), ("none", "–"), ("list", "–"), ("deep.0.x", "0.5"),
        ("deep.1", "1, 2"),
    ]  # fmt: skip
    assert settings_rows({}) == []


def test_numbers_stand_right_and_names_left():
    rows = [["a", 1, "0.83 ± 0.01", None, "b"], ["c", math.nan, "", None, "2b"]]
    text = page(tables=(Table("t", ["name", "n", "mean", "none", "mixed"], rows),))
    heads = re.findall(r'<th scope="col"( class="number")?>(\w+)</th>', text)
    assert {name for number, name in heads if number} == {"n", "mean"}


def test_the_same_report_gives_the_same_bytes(tmp_path):
    for name in "ab":
        write_report(tmp_path / name, Report("t", sections=[Section("s", (), [figure(), figure(png())])]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_ids_of_figures_do_not_collide():
    markup = '<defs><clipPath id="c"><rect width="1" height="1"/></clipPath><path id="m" d="M0 0"/></defs>'
    markup += (
        '<g clip-path="url(#c)"><use xlink:href="#m"/><use style="clip-path: url(\'#c\')" href="#m"/></g>'
    )
    found = checked(page(figure(drawing(markup)), figure(drawing(markup))))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert {"f1-c", "f2-c", "f1-m", "f2-m"} <= set(ids)
    uses = [attributes["href"] for tag, attributes in found.tags if tag == "use"]
    assert uses == ["#f1-m", "#f1-m", "#f2-m", "#f2-m"]


@pytest.mark.parametrize(
    "markup",
    [
        "<script>alert(1)</script>",
        "<style>* { display: none }</style>",
        "<foreignObject><b>x</b></foreignObject>",
        '<a href="https://example.org/bad"><text>x</text></a>',
        '<image href="https://example.org/bad.png"/>',
        '<image xlink:href="file:///bad"/>',
        '<image href="data:image/svg+xml;base64,bad"/>',
        '<use href="other.svg#bad"/>',
        '<rect onload="bad()" onclick="bad()"/>',
        '<rect fill="url(https://example.org/bad)"/>',
        '<rect style="fill: url(https://example.org/bad)"/>',
        r'<rect style="fill: u\72l(https://example.org/bad)"/>',
        '<rect style="position: fixed; background: bad; --s0: bad"/>',
        '<rect class="bad"/>',
        '<animate attributeName="href" values="bad"/>',
        '<set attributeName="bad"/>',
    ],
)
def test_what_is_not_a_drawing_is_left_out(markup):
    text = page(figure(drawing(markup + '<circle r="1"/>'), words="w"))
    checked(text)
    assert "<circle" in text
    body = text[text.index("<main") :]
    assert "bad" not in body
    assert "alert" not in body
    assert "display: none" not in body


@pytest.mark.parametrize(
    "content",
    [
        b"", b"GIF89a", b"<svg", b"<html xmlns='http://www.w3.org/1999/xhtml'/>",
        drawing("").replace(b"viewBox", b"x"),
        b'<!DOCTYPE svg [<!ENTITY a "b">]>' + SVG.replace(b"<path", b"&a;<path"),
        b"\x89PNG\r\n\x1a\n12",
    ],
)  # fmt: skip
def test_what_is_no_picture_is_a_mistake_in_one_line(content, tmp_path):
    with pytest.raises(MsdmError, match="'words'") as caught:
        write_report(tmp_path / "page.html", Report("t", sections=[Section("s", figures=[figure(content)])]))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_is_too_short_is_a_mistake():
    with pytest.raises(MsdmError, match="table 'T' has 2 columns and a row of 1"):
        page(tables=(Table("T", ["a", "b"], [["x", 1], ["y"]]),))


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "page.html"
    write_report(path, Report("old"))
    with pytest.raises(MsdmError):
        write_report(path, Report("new", sections=[Section("s", figures=[figure(b"no")])]))
    assert "old" in path.read_text(encoding="utf-8")
    (tmp_path / "folder").mkdir()
    with pytest.raises(MsdmError, match="cannot write"):
        write_report(tmp_path / "folder", Report("x"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "page.html"]


def test_pictures_have_their_size_and_a_mat():
    text = page(
        figure(png(40, 30)), figure(SVG), figure(drawing('<path d="M0 0" style="stroke: currentColor"/>'))
    )
    assert 'width="40" height="30"' in text
    assert re.findall(r'<div class="drawing( mat)?"', text) == [" mat", " mat", ""]


def colours(scheme: str) -> dict[str, str]:
    text = resources.files("msdm_kit.plugins").joinpath("templates/report.html").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", text, flags=re.DOTALL)[:2]
    return dict(re.findall(r"--(\w+): (#\w{6})", light if scheme == "light" else dark))


def contrast(a: str, b: str) -> float:
    """WCAG 2.2, 1.4.3."""

    def luminance(colour: str) -> float:
        levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme):
    found = colours(scheme)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for ink in ("ink", "soft"):
        assert contrast(found[ink], found["page"]) >= 4.5
    assert contrast(found["ink"], found["note"]) >= 4.5
    assert contrast(found["s0"], found["page"]) >= 4.5, "links"
    series = [found[f"s{i}"] for i in range(8)]
    assert min(contrast(colour, found["page"]) for colour in series) >= 3


# Machado, Oliveira and Fernandes, IEEE TVCG 15:1291, 2009: what is left of linear RGB
SEEN = {
    "normal": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("eyes", SEEN)
def test_groups_are_told_apart_without_red_green_vision(scheme, eyes):
    found = colours(scheme)
    levels = np.array([[int(found[f"s{i}"][k : k + 2], 16) for k in (1, 3, 5)] for i in range(8)]) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    seen = (linear @ np.asarray(SEEN[eyes]).T).clip(0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055))
    i, j = np.triu_indices(8, 1)
    assert deltaE_ciede2000(lab[i], lab[j]).min() > 10, "just noticeable is about 1"


def test_provenance_says_what_ran_and_nothing_of_the_user(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setattr("sys.argv", ["/home/someone/bin/msdm-kit", "sample", "my run", "--out", "o"])
    found = provenance(weights_sha256="ab", device=None)
    assert found["command"] == "msdm-kit sample 'my run' --out o"
    assert found["weights_sha256"] == "ab"
    assert {"time", "msdm-kit", "python", "platform", "torch", "numpy"} <= set(found)
    assert "device" not in found
    assert not re.search("hunter2|someone", str(found))
    monkeypatch.setattr("sys.argv", ["/usr/lib/ipykernel_launcher.py", "-f", "/run/secret.json"])
    assert "command" not in provenance()


def test_four_digits_of_what_rounds_up():
    assert [four_digits(v) for v in (0.99996, 99.996, 0.00010001, 9.9999e-5)] == [
        "1.000",
        "100.0",
        "0.0001000",
        "0.0001000",
    ]
