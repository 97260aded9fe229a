"""Statistics: known answers, and a page that is whole, self-contained and escaped."""

import math

import numpy as np
import pytest

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.images import save_labels
from msdm_kit.core.manifest import read_manifest, write_manifest
from msdm_kit.plugins.statistics import statistics
from msdm_kit.plugins.statistics_page import EXAMPLES, SHOWN, render, save_page

from ..cells import cell_folder
from ..pages import HOSTILE, checked


@pytest.fixture
def data(tmp_path):
    return cell_folder(tmp_path / "data", 4)


def group_by(root, values):
    rows = read_manifest(root / "metadata.csv")
    write_manifest(root / "metadata.csv", [{**row, "tissue": v} for row, v in zip(rows, values, strict=True)])


def test_known_answers(data):
    cells, nuclei = np.zeros((48, 48), np.uint16), np.zeros((48, 48), np.uint16)
    cells[0:10, 0:10], cells[20:24, 0:20], nuclei[2:6, 2:7] = 4, 7, 4
    save_labels(data / "cells/f0.png", cells)
    save_labels(data / "nuclei/f0.png", nuclei)
    group_by(data, ["a", "", "b", "b"])
    found = statistics(data, group="tissue")
    assert list(found.groups) == ["b", "(empty)", "a"]
    assert found.groups["b"].ids == ["f2", "f3"]
    a = found.groups["a"]
    assert a.kinds["cell"].instances["area"].tolist() == [100, 80]
    assert a.kinds["cell"].instances["eccentricity"].tolist() == pytest.approx([0, math.sqrt(1 - 15 / 399)])
    assert a.kinds["cell"].count.tolist() == [2]
    assert a.kinds["cell"].density.tolist() == pytest.approx([2 / 48**2 * 1e6])
    assert a.ratio.tolist() == pytest.approx([20 / 180])
    row = next(r for r in found.figures() if (r["group"], r["kind"]) == ("a", "cell"))
    assert row == {
        "group": "a", "kind": "cell", "fields": "1", "instances": "2", "per field": "2.0", "per Mpx": "868",
        "area": "90 ± 10", "area median": "90", "eccentricity": "0.491 ± 0.491", "above 0.85": "50%",
        "nucleus/cell": "",
    }  # fmt: skip
    row = next(r for r in found.figures() if (r["group"], r["kind"]) == ("a", "nucleus"))
    assert row["nucleus/cell"] == "0.111"


def test_fields_without_a_mask_or_instances_are_left_out_of_it(data):
    (data / "cells/f1.png").unlink()
    save_labels(data / "nuclei/f2.png", np.zeros((48, 48), np.uint16))
    (everything,) = statistics(data, workers=2).groups.values()
    assert len(everything.kinds["cell"].count) == 3
    assert everything.kinds["nucleus"].count.tolist() == [4, 4, 0, 4]
    assert len(everything.ratio) == 3
    assert render(statistics(data))


def test_a_column_that_is_not_there(data):
    with pytest.raises(MsdmError, match="did you mean 'assay'"):
        statistics(data, group="asay")


def test_the_page_is_whole(data, tmp_path):
    save_page(statistics(data, group="assay"), tmp_path / "page.html")
    page = checked((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.count("svg") == 7
    assert page.count("img") == 2 * EXAMPLES
    assert page.count("table") == 1
    assert "Outlines: cell cyan, nucleus yellow." in page.said


def test_masks_without_images(data, tmp_path):
    with_images = statistics(data).figures()
    for path in (data / "images").iterdir():
        path.unlink()
    (data / "images").rmdir()
    found = statistics(data)
    assert found.figures() == with_images
    save_page(found, tmp_path / "page.html")
    assert checked((tmp_path / "page.html").read_text(encoding="utf-8")).count("img") == EXAMPLES


def test_hostile_names_are_text(data):
    group_by(data, [HOSTILE, HOSTILE, "]]><svg onload=alert(1)>", "</style><b>"])
    rows = read_manifest(data / "metadata.csv")
    write_manifest(data / "metadata.csv", [{HOSTILE: r.pop("tissue"), **r} for r in rows])
    page = checked(render(statistics(data, group=HOSTILE)))
    assert page.count("b") == 0
    words = "".join(page.words)
    assert f"grouped by {HOSTILE}" in words
    assert words.count(HOSTILE) >= 3, "in the table and below the examples, too"


def test_many_groups_are_drawn_in_part(data):
    root = cell_folder(data.parent / "many", SHOWN + 1)
    page = checked(render(statistics(root, group="patient")))
    assert f"{SHOWN + 1} groups, the {SHOWN} largest drawn" in page.said
    assert page.count("img") == SHOWN
