"""The reports of sampling and of training: what a reader is told, and what he is warned of."""

import json
import math

import numpy as np
import pytest

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.images import read_image, read_labels, to_float
from msdm_kit.core.manifest import read_manifest, write_manifest
from msdm_kit.core.pictures import SheetRow, save_sheet
from msdm_kit.core.sample import FACETS
from msdm_kit.plugins.filtering import Acceptance, Limit, judge
from msdm_kit.plugins.metrics.adherence import Adherence, summarise
from msdm_kit.plugins.recipe_files import dump_recipe, load_recipe
from msdm_kit.plugins.report import train_report as module
from msdm_kit.plugins.report.html import render
from msdm_kit.plugins.report.sample_report import LISTED, SHOWN, Job, sample_report, write_sample_report
from msdm_kit.plugins.report.train_report import write_train_report
from msdm_kit.plugins.run import Run
from msdm_kit.plugins.sampling.products import Summary

from ..cells import cell_folder
from ..pages import HOSTILE, checked

RECIPE = load_recipe("quickstart")


@pytest.fixture
def folder(tmp_path):
    """A folder as sampling leaves it, of ten pairs."""
    root = cell_folder(tmp_path / "out", 10)
    rows = [
        {**row, **{f"source_{facet}": f"from {facet}" for facet in FACETS}}
        for row in read_manifest(root / "metadata.csv")
    ]
    write_manifest(root / "metadata.csv", rows)
    return root


def shown(folder, ids):
    rows = []
    for id in ids:
        image = to_float(read_image(folder / f"images/{id}.png"))
        masks = {"nucleus": read_labels(folder / f"nuclei/{id}.png").astype(np.int32)}
        rows.append(SheetRow(id, image, masks, image))
    return rows


def job(folder, measured, *, seen=0, acceptance=None, rejected=(), settings=None) -> Job:
    ids = [a.id for a in measured]
    if ids:
        rows = read_manifest(folder / "metadata.csv")
        write_manifest(folder / "metadata.csv", [row for row in rows if row["id"] in ids])
    apart = shown(folder, ["f0"] * len(rejected))
    summary = Summary(
        folder, folder / "x.png" if ids else None, len(ids), seen, summarise(measured), acceptance
    )
    rows = shown(folder, ids)
    return Job(summary, RECIPE, 6000, measured, rejected, rows, apart, settings or {}, "ab" * 32, "cpu")


def pairs(count=10, mask=0.8):
    return [Adherence(f"f{i}", mask - 0.01 * i, 0.85, 3.0, (i - 5.0, 2.0, -4.0)) for i in range(count)]


def test_what_was_painted(folder):
    settings = {"sampling": {"steps": 20, "solver": "unipc"}, "data": HOSTILE}
    path = write_sample_report(job(folder, pairs(), settings=settings))
    assert path == folder / "report.html"
    page = checked(path.read_text(encoding="utf-8"))
    for words in (
        "quickstart: 10 painted pairs", "painted by quickstart after 6000 training steps",
        "a mean Dice of 0.755, the real ones with 0.850", f"{SHOWN} of 10: real image", "Mask adherence.",
        "Colour drift.", "from appearance", "sampling.solver unipc",
        "weights_sha256 abab", "device cpu",
    ):  # fmt: skip
        assert words in page.said, words
    (worst,) = [a["alt"] for tag, a in page.tags if tag == "img" and "lowest" in a["alt"]]
    assert worst.endswith("f9: Dice 0.710, f8: Dice 0.720, f7: Dice 0.730, f6: Dice 0.740")
    assert "Read this first" not in page.said
    assert HOSTILE in "".join(page.words)
    assert page.count("img") == 2
    assert page.count("svg") == 2
    headings = [i for i, (tag, _) in enumerate(page.tags) if tag in ("figure", "table")]
    names = [page.tags[i][0] for i in headings]
    assert names == sorted(names), "figures first, tables below"


def test_what_a_reader_is_warned_of(folder):
    limits = (Limit("mask_adherence", 0.5),)
    acceptance = Acceptance(limits, 2)
    for value in (0.6, 0.4, math.nan):
        acceptance.count(judge({"mask_adherence": value}, limits), again=False)
    rejected = [Adherence("f0_try1", 0.4)]
    found = sample_report(job(folder, pairs(2, 0.5), seen=1, acceptance=acceptance, rejected=rejected))
    warnings = " ".join(found.warnings)
    assert "The masks of 1 of 2 pairs were trained on" in warnings
    assert "1 pairs were kept although" in warnings
    assert "clearly less than real ones" in warnings
    assert (
        "2 outputs were kept and 1 rejected; 67% of 3 paintings passed mask_adherence >= 0.5."
        in found.summary
    )
    page = checked(render(found))
    assert "All 1: real image" in page.said
    assert "rejected by mask_adherence >= 0.5 1" in page.said


def test_where_nothing_was_kept_or_measured(folder, tmp_path):
    (tmp_path / "none").mkdir()
    none = job(folder, [], rejected=[Adherence("f0", 0.1)])
    assert "No pair was kept" in checked(render(sample_report(none))).said
    unknown = [Adherence("f0", math.nan)]
    page = checked(render(sample_report(job(folder, unknown))))
    assert "Mask adherence could not be measured." in page.said
    assert page.count("svg") == 0


def test_what_segmenters_say_of_it(folder):
    rows = read_manifest(folder / "metadata.csv")
    for row, value in zip(rows, ("0.9125", ""), strict=False):
        row["segmenter_agreement"] = value
    write_manifest(folder / "metadata.csv", [{"segmenter_agreement": "", **row} for row in rows])
    asked = job(folder, pairs(2))
    asked.summary.figures["segmenter_agreement"] = 0.9125
    page = checked(render(sample_report(asked)))
    assert "segmenters' masks (mean) 0.9125" in page.said
    assert "colour error agreement" in page.said
    assert "3.000 0.9125 f1" in page.said
    assert "3.000 – All that traces" in page.said


def test_a_long_list_is_cut(folder, monkeypatch):
    monkeypatch.setattr("msdm_kit.plugins.report.sample_report.LISTED", 3)
    assert LISTED == 2000
    page = checked(render(sample_report(job(folder, pairs()))))
    assert "The first 3 of 10." in page.said


@pytest.fixture
def trained(tmp_path):
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    run.recipe_file.write_text(dump_recipe(RECIPE), encoding="utf-8")
    steps = range(1, 1001)
    lines = [
        {"step": s, "loss": 1 / s, "gradient_norm": 1.0, "lr": 1e-4, "images": 4 * s, "seconds": 4.0 * s}
        for s in steps
    ]
    lines += [{"step": s, "validation": {"t=0.25": 0.5, "t=0.75": 0.1}} for s in (500, 1000)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    run.metrics.write_text(text + '{"step": 1001, "lo', encoding="utf-8")
    image = np.zeros((3, 16, 16), np.float32)
    for step in (200, 400, 1000):
        save_sheet(run.preview(step), [SheetRow("x", image, {}, image)])
    return run


def test_how_training_went(trained):
    page = checked(write_train_report(trained.folder).read_text(encoding="utf-8"))
    for words in (
        "quickstart: training", "1000 steps, 4000 images, 1 h 7 min.", "Step 200.", "Step 1000.",
        "recipe.train.steps",
    ):  # fmt: skip
        assert words in page.said, words
    assert (page.count("svg"), page.count("img")) == (3, 2)
    assert "Step 400." not in page.said
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert labels[1] == "Validation losses at the end: t=0.25 0.5000, t=0.75 0.1000."


def test_a_curve_is_of_means_of_neighbours(trained, monkeypatch):
    drawn = []
    monkeypatch.setattr(module, "curves", lambda series, *labels, log: drawn.append(series) or b"")
    module.train_report(trained)
    steps, losses = drawn[0]["loss"]
    assert len(steps) == len(losses) == module.DRAWN
    assert (steps[0], losses[0]) == pytest.approx((2.5, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4))
    assert drawn[1] == {"t=0.25": ([500, 1000], [0.5, 0.5]), "t=0.75": ([500, 1000], [0.1, 0.1])}


def test_a_run_without_metrics(trained):
    trained.metrics.write_text("")
    with pytest.raises(MsdmError, match="no losses"):
        write_train_report(trained.folder)
    trained.metrics.unlink()
    with pytest.raises(MsdmError, match="give the folder of a run"):
        write_train_report(trained.folder)
    assert not (trained.folder / "report.html").exists()
