"""Data sets of masks compared: which fields and masks, means, intervals, agreement, and the files."""

import csv
import json
import math
import shutil

import numpy as np
import pytest

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.manifest import read_manifest, write_manifest
from msdm_kit.plugins.metrics.distance import Distance
from msdm_kit.plugins.segmentation.evaluation import evaluate_segmentation, read_masks
from msdm_kit.plugins.segmentation.files import save_evaluation, summary_of
from msdm_kit.plugins.segmentation.results import summarise
from msdm_kit.plugins.segmentation.scores import score_field

from ..cells import cell_folder, load, save


@pytest.fixture
def truth(tmp_path):
    return cell_folder(tmp_path / "truth", 6)


def copy(truth, name, shift=0, images=False):
    """The same fields with masks shifted to the right."""
    folder = truth.parent / name
    shutil.copytree(truth, folder, ignore=None if images else shutil.ignore_patterns("images"))
    for path in [*(folder / "cells").iterdir(), *(folder / "nuclei").iterdir()]:
        save(path, np.roll(load(path), shift, 1))
    return folder


def test_fields_are_scored_as_one_by_one(truth):
    predicted = copy(truth, "predicted", 2)
    found = evaluate_segmentation(predicted, [truth])
    assert [field.id for field in found.fields] == [f"f{i}" for i in range(6)]
    for field in found.fields:
        sides = [read_masks(folder, field.id, ("cell", "nucleus")) for folder in (predicted, truth)]
        values = {name: ratio.value for name, ratio in field.against[0].items()}
        assert values == pytest.approx(score_field(*sides), nan_ok=True)
    of = found.summary("cell_dice")
    each = [field.against[0]["cell_dice"].value for field in found.fields]
    assert of.mean == pytest.approx(np.mean(each))
    assert of.sd == pytest.approx(np.std(each, ddof=1))
    assert min(each) <= of.low < of.mean < of.high <= max(each)
    assert of.fields == 6


def test_a_data_set_against_itself_is_perfect(truth):
    found = evaluate_segmentation(truth, [truth])
    for name, metric in found.metrics.items():
        of = found.summary(name)
        perfect = 0 if metric.better == "lower" else 1
        assert (of.mean, of.sd, of.low, of.high, of.pooled) == (perfect, 0, perfect, perfect, perfect)


def test_fields_are_matched_by_id_in_whatever_order(truth):
    predicted = copy(truth, "predicted")
    rows = read_manifest(predicted / "metadata.csv")
    write_manifest(predicted / "metadata.csv", [*rows[::-1], {**rows[0], "id": "more"}])
    assert evaluate_segmentation(predicted, [truth]).summary("cell_pq").mean == 1


def test_shuffled_masks_score_badly(truth):
    predicted = copy(truth, "predicted")
    names = sorted((predicted / "nuclei").iterdir())
    masks = [load(path) for path in names]
    for path, mask in zip(names, [*masks[1:], masks[0]], strict=True):
        save(path, np.roll(mask, 12, (0, 1)))
    found = evaluate_segmentation(predicted, [truth])
    assert found.summary("nucleus_pq").mean < 0.1
    assert found.summary("nucleus_f1").mean < 0.5


def test_an_empty_mask_is_legal_and_has_no_value_where_there_is_none(truth):
    predicted = copy(truth, "predicted")
    path = predicted / "cells" / "f2.png"
    save(path, np.zeros_like(load(path)))
    found = evaluate_segmentation(predicted, [truth])
    assert found.fields[2].against[0]["cell_f1"].value == 0
    f1, dice = found.summary("cell_f1"), found.summary("cell_dice")
    assert (f1.mean, f1.fields) == (pytest.approx(5 / 6), 6)
    assert f1.pooled == pytest.approx(2 * 20 / (20 + 24))
    assert (dice.mean, dice.fields) == (1, 5)


def test_the_split_is_that_of_the_truth(truth):
    predicted = copy(truth, "predicted")
    rows = read_manifest(predicted / "metadata.csv")
    write_manifest(predicted / "metadata.csv", [{"id": row["id"]} for row in rows[3:]])
    found = evaluate_segmentation(predicted, [truth], split="val")
    assert [field.id for field in found.fields] == ["f3", "f4", "f5"]


def test_groups(truth):
    predicted = copy(truth, "predicted", 1)
    found = evaluate_segmentation(predicted, [truth], group=["assay", "indication"])
    assert found.groups == sorted({f"stain {i % 2} / organ {i % 3}" for i in range(6)})
    one = found.summary("cell_dice", "stain 0 / organ 0")
    assert (one.fields, one.mean) == (1, found.fields[0].against[0]["cell_dice"].value)
    assert math.isnan(one.low)


def test_several_annotators_are_averaged_and_compared_with_each_other(truth):
    predicted = copy(truth, "predicted", 1)
    others = [copy(truth, "second", 2), copy(truth, "third", 4)]
    found = evaluate_segmentation(predicted, [truth, *others])
    assert found.annotators == ("truth", "second", "third")
    each = [found.summary("cell_dice", annotator=k).mean for k in range(3)]
    assert each[0] == pytest.approx(each[1], rel=0.02)
    assert each[2] < min(each[:2])
    assert found.summary("cell_dice").mean == pytest.approx(np.mean(each))
    assert found.summary("cell_dice").fields == 6
    assert found.pairs == [(0, 1), (0, 2), (1, 2)]
    agreement = [found.agreement_summary("cell_dice", k).mean for k in range(3)]
    assert agreement[1] < agreement[2] < 1
    assert agreement[0] == pytest.approx(evaluate_segmentation(others[0], [truth]).summary("cell_dice").mean)
    assert found.agreement_summary("cell_dice").mean == pytest.approx(np.mean(agreement))
    # neither annotator is the right one: a figure with a direction is the mean of both
    assert found.agreement("cell_precision") == pytest.approx(found.agreement("cell_recall"))


def test_a_distance_in_micrometres_takes_each_fields_pixel_size(truth):
    predicted = copy(truth, "predicted", 4)
    rows = read_manifest(truth / "metadata.csv")
    sizes = ["0.5", "1.0", "0.5", "0.5", "0.5", "0.5"]
    write_manifest(
        truth / "metadata.csv",
        [{**row, "pixel_size_um": size} for row, size in zip(rows, sizes, strict=True)],
    )
    found = evaluate_segmentation(predicted, [truth], metrics=["nucleus_f1"], distance=Distance(2.5, "um"))
    assert found.values("nucleus_f1").tolist() == [1, 0, 1, 1, 1, 1]
    found = evaluate_segmentation(
        predicted, [truth], metrics=["nucleus_f1"], distance=Distance(2.5, "um"), pixel_size=1.0
    )
    assert found.values("nucleus_f1").tolist() == [0] * 6


def test_processes_change_nothing(truth):
    predicted = copy(truth, "predicted", 2)
    one, two = (evaluate_segmentation(predicted, [truth], workers=n) for n in (1, 2))
    assert one.fields == two.fields


def test_intervals_by_hand():
    of = summarise(np.array([0.2, math.nan, 0.4, 0.6]), pooled=0.5)
    assert (of.mean, of.fields, of.pooled) == (pytest.approx(0.4), 3, 0.5)
    assert of.sd == pytest.approx(0.2)
    # 1 resample of 27 is the lowest value alone: more than 2.5 %
    assert (of.low, of.high) == (pytest.approx(0.2), pytest.approx(0.6))
    many = np.random.default_rng(3).normal(size=400)
    wide = summarise(many)
    assert wide.high - wide.low == pytest.approx(2 * 1.96 * many.std() / 20, rel=0.08)


def test_files(truth, tmp_path):
    predicted, other = copy(truth, "predicted", 1), copy(truth, "other", 2)
    path = predicted / "cells" / "f2.png"
    save(path, np.zeros_like(load(path)))
    found = evaluate_segmentation(predicted, [truth, other], group=["assay"])
    save_evaluation(found, tmp_path / "out")
    files = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert files == ["agreement.csv", "fields.csv", "report.html", "summary.json"]
    rows = list(csv.DictReader((tmp_path / "out" / "fields.csv").open(newline="")))
    assert len(rows) == 12
    assert [rows[4][key] for key in ("id", "group", "annotator", "cell_dice")] == [
        "f2",
        "stain 0",
        "truth",
        "",
    ]
    assert float(rows[0]["cell_dice"]) == found.fields[0].against[0]["cell_dice"].value
    agreement = list(csv.DictReader((tmp_path / "out" / "agreement.csv").open(newline="")))
    assert [row["other"] for row in agreement] == ["other"] * 6
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary == summary_of(found)
    dice = summary["metrics"]["cell_dice"]
    assert dice["fields"] == 5
    assert dice["mean"] == found.summary("cell_dice").mean
    assert dice["agreement"]["sd_pairs"] is None
    assert set(dice["groups"]) == {"stain 0", "stain 1"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The 6 worst fields" in page
    assert "f2: 0.000, truth" in page
    assert "1 field has no Dice of cytoplasm" in page


def test_a_report_without_images_or_matches(truth, tmp_path):
    predicted = copy(truth, "predicted")
    shutil.rmtree(truth / "images")
    for path in (predicted / "cells").iterdir():
        save(path, np.zeros_like(load(path)))
    found = evaluate_segmentation(predicted, [truth], metrics=["cell_dice", "cell_assd"])
    assert summary_of(found)["metrics"]["cell_dice"]["mean"] is None
    save_evaluation(found, tmp_path / "out")
    assert "no field has a value" in (tmp_path / "out" / "report.html").read_text()


def broken(truth, name, change):
    folder = copy(truth, name)
    change(folder)
    return folder


def drop_rows(folder):
    rows = read_manifest(folder / "metadata.csv")
    write_manifest(folder / "metadata.csv", rows[2:])


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        (drop_rows, {}, "field 'f0' (+1 more) of"),
        (lambda f: (f / "metadata.csv").unlink(), {}, "msdm-kit data import"),
        (lambda f: (f / "cells" / "f1.png").unlink(), {}, "f1.png is missing"),
        (lambda f: save(f / "cells" / "f1.png", load(f / "cells" / "f1.png")[:9]), {}, "field 'f1': the"),
        (lambda f: (f / "cells" / "f1.png").write_bytes(b"no"), {}, "f1.png is not a PNG"),
        (lambda f: shutil.rmtree(f / "nuclei"), {"metrics": ["cytoplasm_dice"]}, "reads nucleus masks"),
        (lambda f: [shutil.rmtree(f / n) for n in ("nuclei", "cells")], {}, "no metric reads a kind"),
        (lambda f: None, {"split": "test"}, "no row of split 'test'"),
        (lambda f: None, {"group": ["organ"]}, "no column 'organ'"),
        (lambda f: None, {"metrics": ["dice"]}, "no metric 'dice'"),
        (lambda f: None, {"distance": Distance(3, "um")}, "needs the size of a pixel"),
    ],
)
def test_mistakes_are_one_line(truth, change, settings, words):
    predicted = broken(truth, "predicted", change)
    with pytest.raises(MsdmError) as raised:
        evaluate_segmentation(predicted, [truth], **settings)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_kinds_that_one_side_lacks_are_left_out(truth):
    predicted = broken(truth, "predicted", lambda f: shutil.rmtree(f / "cells"))
    assert all(name.startswith("nucleus") for name in evaluate_segmentation(predicted, [truth]).metrics)


def test_what_lies_outside_the_region_is_not_scored(truth):
    """The upper half was annotated: there all is found, below nothing is annotated."""
    predicted, annotated = copy(truth, "predicted"), copy(truth, "annotated")
    for path in [*(annotated / "cells").iterdir(), *(annotated / "nuclei").iterdir()]:
        labels = load(path)
        save(path, np.where(labels <= 2, labels, 0))
        half = np.zeros_like(labels)
        half[:24] = 1
        save(annotated / "tumour" / path.name, half)
    names = ["cell_f1", "nucleus_pq"]
    everywhere = evaluate_segmentation(predicted, [annotated, truth], metrics=names)
    assert everywhere.summary("cell_f1", annotator=0).mean == pytest.approx(2 * 2 / 6)
    inside = evaluate_segmentation(predicted, [annotated, truth], metrics=names, region="tumour")
    assert [inside.summary(name).mean for name in names] == [1, 1]
    assert [inside.agreement_summary(name).mean for name in names] == [1, 1]
    assert inside.fields[0].against[1]["cell_f1"].bottom == 4
    with pytest.raises(MsdmError, match="stroma is missing"):
        evaluate_segmentation(predicted, [annotated], region="stroma")
    save(annotated / "tumour" / "f1.png", half[:9])
    with pytest.raises(MsdmError, match="field 'f1': the cell mask is of shape"):
        evaluate_segmentation(predicted, [annotated], region="tumour")


def test_a_pixel_size_that_is_none_is_a_mistake_where_it_is_asked_for(truth):
    rows = read_manifest(truth / "metadata.csv")
    write_manifest(truth / "metadata.csv", [{**row, "pixel_size_um": "fine"} for row in rows])
    with pytest.raises(MsdmError, match="pixel_size_um is 'fine'"):
        evaluate_segmentation(truth, [truth], distance=Distance(3, "um"))
    assert evaluate_segmentation(truth, [truth]).summary("cell_f1").mean == 1
