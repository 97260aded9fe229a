"""`msdm-kit experiment` as a user runs it, on a plan of seconds."""

import csv
import json
import re
import shlex
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from msdm_kit.cli.main import run
from msdm_kit.core.fields import MANIFEST
from msdm_kit.plugins import host

from ..experiments import done_times, toy_package, toy_plan

KINDS = {"kinds": ["nucleus"], "seeds": 1}
STEPS = {"select": 1, "train": 2, "paint": 2, "repaint": 2, "fidelity": 2, "segmenter": 3, "predict": 3,
         "score": 3, "shapes": 1, "report": 1}  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The segmenter `nearest`, found by this process and by those that it starts."""
    patch = pytest.MonkeyPatch()
    folder = toy_package(tmp_path_factory.mktemp("package"))
    patch.syspath_prepend(folder)
    patch.setenv("OMP_NUM_THREADS", "1")
    host.get_host.cache_clear()
    yield folder
    patch.undo()
    host.get_host.cache_clear()


@pytest.fixture(scope="module")
def whole(package, tmp_path_factory):
    """A folder with a plan, and its experiment in `out`, run in two processes."""
    folder = tmp_path_factory.mktemp("whole")
    plan = toy_plan(folder, **KINDS)
    assert run(["experiment", str(plan), "--out", str(folder / "out"), "--jobs", "2"]) == 0
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of it that may be changed."""
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def did(before: dict[str, int], after: dict[str, int]) -> Counter:
    """The jobs whose steps were done between."""
    return Counter(name.split(".")[0] for name in after if after[name] != before.get(name))


def test_everything_is_there(whole):
    out = whole / "out"
    assert did({}, done_times(out)) == Counter(STEPS)
    scores = rows(out / "results.csv")
    assert {row["arm"] for row in scores} == {"baseline", "sdm", "msdm"}
    assert {row["test"] for row in scores} == {"columnar", "mixed"}
    assert {row["kind"] for row in scores} == {"nucleus"}
    # every metric of every field of every arm, whatever it says
    assert len(scores) == 3 * 4 * len({row["metric"] for row in scores})
    table = rows(out / "table1.csv")
    assert {row["metric"] for row in table} == {"nucleus_dice"}
    assert [row["row"] for row in table if row["test"] == "mixed"] == ["baseline", "sdm", "msdm"]
    text = (out / "table1.md").read_text()
    assert "**Mixed cells**" in text
    assert re.search(r"^\| MSDM \| [\d.]+ ", text, re.M)
    assert len(rows(out / "significance.csv")) == 2 * 3
    fidelity = json.loads((out / "fidelity.json").read_text())
    assert set(fidelity) == {"sdm", "msdm"}
    assert fidelity["sdm"]["rows"] == ["brown stain", "purple"]
    assert {p.name for p in (out / "figures").iterdir()} == {
        "figure2a.png", "figure2b-nucleus.svg", "figure3-sdm.svg", "figure3-msdm.svg"
    }  # fmt: skip
    sets = Counter(row["set"] for row in rows(out / "eccentricity.csv"))
    # two instances a field: 4 training fields, 2 versions of 2 painted ones, 2 of each test set
    assert sets == {"train": 8, "paint.sdm": 8, "paint.msdm": 8, "test.columnar": 4, "test.mixed": 4}


def test_the_report_holds_all_and_asks_for_nothing(whole):
    page = (whole / "out" / "report.html").read_text(encoding="utf-8")
    titles = ("as Table 1 of the paper", "Every comparison", "All metrics of all arms", "Provenance")
    for word in (*titles, "Figure 2a", "Figure 2b", "Figure 3", "PQ of nuclei", "There is one annotator"):
        assert word in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_arms_are_compared_on_what_they_were_trained_on(whole):
    steps = whole / "out" / "steps"
    models = {p.parent.parent.name: json.loads(p.read_text()) for p in steps.glob("segmenter.*/model/*.json")}
    assert {name: facts["train_fields"] for name, facts in models.items()} == {
        "segmenter.baseline.nucleus.seed0": 4,
        "segmenter.sdm.nucleus.seed0": 4 + 4,
        "segmenter.msdm.nucleus.seed0": 4 + 4,
    }
    facets = ("id", "source_morphology", "source_appearance", "source_metadata")
    one, other = (
        [[row[facet] for facet in facets] for row in rows(steps / f"paint.{name}" / "pairs" / MANIFEST)]
        for name in ("sdm", "msdm")
    )
    assert one == other


def test_again_does_nothing(whole, msdm):
    out = whole / "out"
    before = done_times(out)
    assert msdm("experiment", whole / "plan.yaml", "--out", out).code == 0
    assert done_times(out) == before


def test_ctrl_c_and_one_process_change_no_result(whole, package, msdm, process, monkeypatch, tmp_path):
    cut = tmp_path / "cut"
    words = ("experiment", whole / "plan.yaml", "--out", cut, "--jobs", 1)
    monkeypatch.setenv("TOY_SECONDS", "600")  # in a segmenter: long enough to be stopped within
    started = process(*words, python=f"import sys; sys.path.insert(0, {str(package)!r})\n{MAIN}")
    limit = time.monotonic() + 120
    while not list((cut / "steps").glob("segmenter.*/begun.json")):
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < limit
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    printed, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (130, "")
    said = re.search(r"stopped; what is done is kept; go on with: (msdm-kit experiment .*)\n", printed)
    assert shlex.split(said[1])[1:] == [str(word) for word in words]
    before = done_times(cut)
    assert did({}, before)["train"] >= 1
    assert not any(name.startswith("segmenter") for name in before)

    monkeypatch.delenv("TOY_SECONDS")
    outcome = msdm(*words)
    assert outcome.code == 0, outcome.err
    after = done_times(cut)
    assert {name: after[name] for name in before} == before  # nothing was done twice
    out = whole / "out"  # of two processes, never stopped
    for name in ("results.csv", "table1.csv", "table1.md", "significance.csv", "fidelity.json"):
        assert (cut / name).read_bytes() == (out / name).read_bytes(), name
    for path in sorted((out / "steps").rglob("*.safetensors")):
        a, b = (load_file(root / path.relative_to(out)) for root in (out, cut))
        assert all(torch.equal(a[key], b[key]) for key in a), path


def test_another_seed_only_adds_and_annotators_have_a_row(copy, msdm):
    out = copy / "out"
    shutil.copytree(copy / "data", copy / "second")
    before = done_times(out)
    plan = toy_plan(copy, **{**KINDS, "seeds": 2}, annotator="P1", annotators={"P2": "second"})
    outcome = msdm("experiment", plan, "--out", out)
    assert outcome.code == 0, outcome.err
    # a seed adds trainings and predictions; an annotator is one more to score against
    expected = Counter(segmenter=3, predict=3, score=6, agreement=1, report=1)
    assert did(before, done_times(out)) == expected
    scores = rows(out / "results.csv")
    assert {row["seed"] for row in scores} == {"0", "1"}
    assert {row["annotator"] for row in scores} == {"P1", "P2", "P1 / P2"}
    table = rows(out / "table1.csv")
    assert {row["mean"] for row in table if row["row"] == "IPA"} == {"1.0"}  # their masks are the same
    assert "±" in (out / "table1.md").read_text()


def test_a_dry_run_writes_nothing_and_knows_what_is_done(whole, copy, msdm, tmp_path):
    outcome = msdm("experiment", whole / "plan.yaml", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert "20 steps, 0 of them done" in outcome.out
    assert re.search(r"estimate: \d+ CPU minutes, \d+ minutes with \d+ process", outcome.out)
    assert "how: generators by counted operations" in outcome.out
    new = tmp_path / "new"
    assert msdm("experiment", whole / "plan.yaml", "--dry-run", "--out", new).code == 0
    assert not new.exists()

    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    outcome = msdm("experiment", copy / "plan.yaml", "--dry-run", "--out", copy / "out", "--set", "seeds=2")
    assert "29 steps, 19 of them done" in outcome.out
    assert re.search(r"train\.sdm .*done in", outcome.out)
    assert re.search(r"segmenter\.sdm\.nucleus\.seed1 .*to do", outcome.out)
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*")} == before


MAIN = "from msdm_kit.cli.main import main\nif __name__ == '__main__':\n    main()\n"


def test_other_mistakes(whole, msdm, tmp_path):
    plan = whole / "plan.yaml"
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    for words, text in (
        ((plan,), "missing option --out"),
        ((plan, "--out", full), "is not empty, and no experiment is in it"),
        ((plan, "--out", full / "thesis.txt"), "is a file"),
        ((plan, "--out", tmp_path / "x", "--devices", "cuda:77"), "no device 'cuda:77'"),
        ((plan, "--out", tmp_path / "x", "--devices", ","), "no device is named"),
        (("quik", "--out", tmp_path / "x"), "did you mean 'quick'?"),
        ((plan, "--out", tmp_path / "x", "--set", "seed=3"), "seed: unknown key"),
    ):
        outcome = msdm("experiment", *words)
        assert outcome.code == 2
        assert outcome.err.startswith("error: ")
        assert outcome.err.count("\n") == 1
        assert text in outcome.err
    assert not (tmp_path / "x").exists()
