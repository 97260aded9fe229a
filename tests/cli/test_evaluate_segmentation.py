"""`msdm-kit evaluate segmentation`."""

import csv
import json
import shutil

import numpy as np
import pytest

from ..cells import cell_folder, load, save
from .test_mistakes import refuses


@pytest.fixture
def truth(tmp_path):
    return cell_folder(tmp_path / "truth", 5)


@pytest.fixture
def predicted(truth, tmp_path):
    """The true masks, shifted by two pixels, without images."""
    folder = tmp_path / "predicted"
    shutil.copytree(truth, folder, ignore=shutil.ignore_patterns("images"))
    for path in [*(folder / "cells").iterdir(), *(folder / "nuclei").iterdir()]:
        save(path, np.roll(load(path), 2, 1))
    return folder


def rows(text):
    """The printed tables: first word of each line -> the others."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


def test_one_annotator(msdm, truth, predicted, tmp_path):
    out = tmp_path / "scores"
    outcome = msdm("evaluate", "segmentation", predicted, truth, "--out", out)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("5 fields against truth; centres at most 6 px apart\n")
    table = rows(outcome.out)
    assert list(table)[2:6] == ["cell_f1", "cell_assd", "cytoplasm_dice", "nucleus_dice"]
    assert table["cell_f1"] == ["1.0000", "0.0000", "1.0000", "to", "1.0000", "1.0000", "5"]
    summary = json.loads((out / "summary.json").read_text())["metrics"]
    assert table["cell_assd"][0] == f"{summary['cell_assd']['mean']:.4f}"
    assert (
        outcome.out.splitlines()[-1] == f"wrote {out}/report.html, with fields.csv and summary.json beside it"
    )
    assert len(list(csv.DictReader((out / "fields.csv").open(newline="")))) == 5
    assert (out / "report.html").read_text().startswith("<!doctype html>")


def test_annotators_groups_and_chosen_metrics(msdm, truth, predicted):
    words = "--metric nucleus_dice --metric cell_pq --group assay --distance 3um --pixel-size 0.5"
    outcome = msdm("evaluate", "segmentation", predicted, truth, predicted, *words.split())
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0] == "5 fields against truth, predicted; centres at most 3 um apart"
    assert lines[1].split()[-1] == "annotators"
    assert [line.split()[0] for line in lines[2:4]] == ["nucleus_dice", "cell_pq"]
    assert "±" in lines[2]
    assert lines[5].split() == ["group", "fields", "nucleus_dice", "cell_pq"]
    assert [line.split()[:3] for line in lines[6:]] == [["stain", "0", "3"], ["stain", "1", "2"]]


def test_a_split_of_the_built_in_set_against_itself(msdm):
    outcome = msdm("evaluate", "segmentation", "histology-nuclei", "histology-nuclei", "--split", "val",
                   "--metric", "nucleus_aji")  # fmt: skip
    assert rows(outcome.out)["nucleus_aji"][:2] == ["1.0000", "0.0000"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--metric", "cell_f2"], "did you mean 'cell_f1'?"),
        (["--distance", "far"], "such as 6px or 3um"),
        (["--distance", "3um"], "--pixel-size"),
        (["--distance", "3um", "--pixel-size", "-1"], "micrometres per pixel"),
        (["--group", "organ"], "no column 'organ'"),
        (["--split", "test"], "no row of split 'test'"),
    ],
)
def test_mistakes_write_nothing(msdm, truth, predicted, tmp_path, words, expected):
    refuses(
        msdm("evaluate", "segmentation", predicted, truth, "--out", tmp_path / "scores", *words), expected
    )
    assert not (tmp_path / "scores").exists()


def test_mistakes_in_folders(msdm, truth, predicted, tmp_path):
    refuses(msdm("evaluate", "segmentation", predicted), "Missing argument")
    refuses(msdm("evaluate", "segmentation", predicted, "nowhere"), "no data folder 'nowhere'")
    refuses(msdm("evaluate", "segmentation", predicted, truth, "--out", truth), "is not an empty folder")
    for folder in (predicted, truth):
        words = ("evaluate", "segmentation", predicted, truth, "--out", folder / "scores")
        refuses(msdm(*words), f"scores lies in {folder}, which is read")
        assert not (folder / "scores").exists()
    (predicted / "cells" / "f3.png").unlink()
    refuses(msdm("evaluate", "segmentation", predicted, truth), "f3.png is missing")
    (predicted / "metadata.csv").unlink()
    refuses(msdm("evaluate", "segmentation", predicted, truth), "msdm-kit data import")
