"""Sampling is a job: what is there is not painted again, and going on is as if nothing had happened."""

import json
import os
import shutil
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.files import claimed
from msdm_kit.core.images import read_labels, save_labels
from msdm_kit.core.manifest import read_manifest
from msdm_kit.plugins.checking import check
from msdm_kit.plugins.filtering import Thresholds
from msdm_kit.plugins.mask_operations.apply import load_operations
from msdm_kit.plugins.recombination import PlannedOutput, Recombination
from msdm_kit.plugins.sampling.events import Painted, Planned
from msdm_kit.plugins.sampling.pair_folder import part_name, rejected_folder
from msdm_kit.plugins.sampling.settled import apart_id, settle

from ..sampled import job, tree


@pytest.fixture
def copy(whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    shutil.copytree(rejected_folder(whole), rejected_folder(out))
    return out


class Heard(list):
    """Events; `then` is done when so many were painted."""

    def __init__(self, painted=0, then=None):
        self.painted, self.then = painted, then

    def __call__(self, event):
        self.append(event)
        if len(self.ids) == self.painted and isinstance(event, Painted):
            self.then()

    @property
    def plan(self):
        return next(event for event in self if isinstance(event, Planned))

    @property
    def ids(self):
        return [event.id for event in self if isinstance(event, Painted)]


def rows_of(out, name):
    return read_manifest((out if name == "kept" else rejected_folder(out)) / "metadata.csv")


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("stops", [(1,), (2, 1), (4, 1)])
def test_an_interrupted_job_goes_on_to_the_same_bytes(root, bound, whole, tmp_path, stops):
    out, painted = tmp_path / "out", []
    for after in stops:
        heard = Heard(after, interrupt)
        with pytest.raises(KeyboardInterrupt):
            job(root, out, bound, listener=heard)
        painted += heard.ids
    heard = Heard()
    summary = job(root, out, bound, listener=heard)
    assert tree(out) == tree(whole)
    plan = heard.plan
    assert (plan.fields, plan.pairs + plan.rejected, plan.lost) == (4, sum(stops), 0)
    every = [row["id"] for name in ("kept", "rejected") for row in rows_of(whole, name)]
    assert len([*painted, *heard.ids]) == len(every), "none is painted twice"
    assert summary.pairs == json.loads((out / "summary.json").read_text())["pairs"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_ends_a_process_ends_the_job_cleanly(root, bound, whole, tmp_path, number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        job(root, tmp_path / "out", bound, listener=Heard(2, lambda: os.kill(os.getpid(), number)))
    assert signal.getsignal(number) is before
    assert not list(tmp_path.rglob("*.tmp"))
    job(root, tmp_path / "out", bound)
    assert tree(tmp_path / "out") == tree(whole)


def test_a_finished_job_is_left_alone(root, bound, copy, whole):
    times = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    heard = Heard()
    assert job(root, copy, bound, listener=heard).pairs == len(FieldDataset(copy))
    assert (heard.ids, heard.plan.done, heard.plan.fields) == ([], 4, 4)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == times
    for name in ("report.html", "contact-sheet.png", "summary.json", "recipe.yaml"):
        (copy / name).unlink()
    (rejected_folder(copy) / "contact-sheet.png").unlink()
    job(root, copy, bound, listener=heard)
    assert heard.ids == []
    assert tree(copy) == tree(whole)
    assert (copy / "report.html").exists()


def cut_manifest(out):
    path = out / "metadata.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])


DAMAGE = {
    "an image": lambda out: (out / "images" / f"{first(out)}.png").write_bytes(b"half"),
    "a mask": lambda out: next((out / "cells").iterdir()).unlink(),
    "a row": cut_manifest,
    "the manifest": lambda out: (out / "metadata.csv").unlink(),
    "the classes": lambda out: (out / "instances.csv").unlink(),
    "an early try": lambda out: (
        rejected_folder(out) / "images" / f"{first(rejected_folder(out))}.png"
    ).unlink(),
    "classes of another process": lambda out: shutil.copy(
        out / "instances.csv", out / part_name("instances.csv", 3)
    ),
    "a file of another process": lambda out: os.rename(
        out / "metadata.csv", out / part_name("metadata.csv", 3)
    ),
}  # fmt: skip


def first(folder):
    return FieldDataset(folder).ids[0]


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_damaged_is_painted_again_and_nothing_else(root, bound, copy, whole, what):
    DAMAGE[what](copy)
    (copy / "images" / ".0123456789abcdef.tmp").write_bytes(b"half")
    (copy / "notes.txt").write_text("mine")
    heard = Heard()
    job(root, copy, bound, listener=heard)
    (copy / "notes.txt").unlink()
    if "another process" not in what:  # nothing was due, and half a file is no harm until then
        assert 1 <= len(heard.ids) < 8
        assert heard.plan.lost == {"a row": 0, "the manifest": 0}.get(what, heard.plan.lost or -1)
    else:
        assert heard.ids == []
    assert tree(copy) == tree(whole)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"steps": 2}, "sampling.steps is 1 there and 2 here"),
        ({"guidance": {"morphology": 2.0}}, 'sampling.guidance is 1.0 there and {"morphology": 2.0} here'),
        ({"tries": 3}, "number of tries is 2 there and 3 here"),
        ({"thresholds": Thresholds(0.01)}, "limits is"),
        ({"n": 5}, "number of pairs is 4 there and 5 here"),
        ({"n": 3}, "number of pairs is 4 there and 3 here"),
        ({"recombination": Recombination(frozenset({"metadata"}))}, "take their colours and metadata from"),
        ({"operations": load_operations(["flip_turn"])}, "mask_operations is [] there and"),
    ],
)
def test_another_job_is_refused(root, bound, copy, whole, changes, named):
    with pytest.raises(MsdmError) as caught:
        job(root, copy, bound, **changes)
    assert str(caught.value).startswith(f"{copy} holds another job: ")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tree(copy) == tree(whole)


@pytest.mark.parametrize(
    ("there", "text"),
    [
        (
            {"torch": "1.0"},
            "with torch 1.0, msdm-kit of an unknown version, and the rest will be with torch ",
        ),
        ({"torch": "\x1b[31m", "msdm-kit": 3}, "with torch of an unknown version, msdm-kit of an unknown "),
        (None, "with torch of an unknown version"),
    ],
)
def test_other_versions_of_packages_are_told_where_pairs_will_be_of_both(root, bound, copy, there, text):
    facts = json.loads((copy / "job.json").read_text())
    assert sorted(facts["versions"]) == ["msdm-kit", "torch"]
    (copy / "job.json").write_text(json.dumps(facts | {"versions": there}))
    heard = Heard()
    job(root, copy, bound, listener=heard)
    assert not any("painted with" in note for note in heard.plan.notes), "nothing is left to paint"
    next((copy / "images").iterdir()).unlink()
    heard = Heard()
    job(root, copy, bound, listener=heard)
    (note,) = (note for note in heard.plan.notes if "painted with" in note)
    assert text in note
    assert note.isprintable()


def test_data_that_changed_are_another_job_and_data_that_moved_are_not(root, bound, copy, whole, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(root / "data", moved)
    job(root, copy, bound, data=moved)
    path = moved / "nuclei" / "a.png"
    save_labels(path, read_labels(path) * 2)
    with pytest.raises(MsdmError, match="manifest rows, images or masks of the data have changed"):
        job(root, copy, bound, data=moved)
    shutil.copy(root / "data" / "nuclei" / "a.png", path)
    (moved / "instances.csv").unlink()
    with pytest.raises(MsdmError, match="manifest rows, images or masks of the data have changed"):
        job(root, copy, bound, data=moved)
    assert tree(copy) == tree(whole)


def test_a_folder_of_something_else_is_refused(root, bound, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").touch()
    with pytest.raises(MsdmError, match="not an empty folder"):
        job(root, out, bound)
    (out / "mine.txt").rename(out / "job.json")
    with pytest.raises(MsdmError, match=r"job\.json is damaged"):
        job(root, out, bound)
    (out / "job.json").rename(out / ".0123456789abcdef.tmp")
    rejected_folder(out).mkdir()
    (rejected_folder(out) / "mine.txt").touch()
    with pytest.raises(MsdmError, match="not an empty folder"):
        job(root, out, bound)


def test_two_at_once_are_refused(root, bound, copy, whole):
    (copy / "images" / f"{first(copy)}.png").unlink()
    with (
        claimed(copy, "at it"),
        pytest.raises(MsdmError, match="another process is painting into"),
    ):
        job(root, copy, bound)
    job(root, copy, bound)
    assert tree(copy) == tree(whole)


def test_the_second_of_two_first_starts_is_refused(root, bound, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with claimed(out, "at it"), pytest.raises(MsdmError, match="another process is painting into"):
        job(root, out, bound)
    assert not [*out.iterdir()]


def test_a_refused_job_leaves_no_folder(root, bound, tmp_path):
    out = tmp_path / "out"
    rejected_folder(out).mkdir()
    (rejected_folder(out) / "mine.txt").touch()
    with pytest.raises(MsdmError, match="not an empty folder"):
        job(root, out, bound)
    assert not out.exists()


@pytest.mark.parametrize("name", ["nuclei/d.png", "images/d.png", "instances.csv"])
def test_data_that_are_gone_while_it_runs(root, bound, whole, tmp_path, monkeypatch, name):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(root / "data", data)
    monkeypatch.setattr(
        FieldDataset.__init__, "__kwdefaults__", {**FieldDataset.__init__.__kwdefaults__, "budget": 0}
    )
    with pytest.raises(MsdmError) as caught:
        job(root, out, bound, data=data, listener=Heard(2, (data / name).unlink))
    assert (data / name).name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(tree(out)) > 1
    shutil.copy(root / "data" / name, data / name)
    job(root, out, bound, data=data)
    assert tree(out) == tree(whole)


def test_a_full_disc(root, bound, whole, tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        full = Heard(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1])))
        with pytest.raises(MsdmError, match="the space on the disc") as caught:
            job(root, tmp_path / "out", bound, listener=full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.tmp"))
    heard = Heard()
    job(root, tmp_path / "out", bound, listener=heard)
    assert heard.plan.pairs + heard.plan.rejected >= 3
    assert tree(tmp_path / "out") == tree(whole)


def test_a_folder_that_cannot_be_written(root, bound, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MsdmError) as caught:
        job(root, tmp_path / "file" / "out", bound)
    assert "\n" not in str(caught.value)


def test_without_a_filter_what_lies_beside_is_not_touched(root, tmp_path):
    out = tmp_path / "out"
    rejected_folder(out).mkdir()
    (rejected_folder(out) / "metadata.csv").write_text("mine")
    plain = {"tries": 1, "thresholds": Thresholds(), "n": 1}
    with pytest.raises(KeyboardInterrupt):
        job(root, out, 0, listener=Heard(1, interrupt), **plain)
    job(root, out, 0, **plain)
    assert [path.name for path in rejected_folder(out).iterdir()] == ["metadata.csv"]
    assert (rejected_folder(out) / "metadata.csv").read_text() == "mine"


def test_the_check_of_a_data_set_finds_what_is_not_what_was_painted(copy):
    assert not check(copy).counts["changed-file"]
    labels = copy / "nuclei" / f"{first(copy)}.png"
    save_labels(labels, read_labels(labels)[::-1])
    rest = (copy / "instances.csv").read_text().replace("odd", "even", 1)
    (copy / "instances.csv").write_text(rest)
    found = check(copy)
    assert [finding.file for finding in found.first["changed-file"]] == [
        "instances.csv", f"nuclei/{first(copy)}.png",
    ]  # fmt: skip
    assert "in the row" in found.first["changed-file"][1].value


@given(st.data(), st.integers(1, 3), st.integers(1, 4))
def test_outputs_are_settled_by_their_tries_in_order(data, tries, count):
    outputs = [PlannedOutput(id, 1, id, id, id) for id in "abcd"[:count]]
    kept, apart, due = {}, {}, {}
    for output in outputs:
        done = data.draw(st.integers(0, tries))
        last = data.draw(st.booleans()) and done > 0
        for attempt in range(1, done + 1):
            if attempt == done and last:
                kept[output.id] = {"id": output.id, "try": str(attempt)}
            else:
                id = apart_id(output.id, attempt, tries)
                apart[id] = {"id": id}
        if not last and done < tries:
            due[output.id] = done + 1
    shuffled = [data.draw(st.permutations(list(rows.values()))) for rows in (kept, apart)]
    found = settle(outputs, *shuffled, tries=tries, filtered=True)
    assert (found.kept, found.apart, found.due) == (list(kept.values()), list(apart.values()), due)
    if apart:
        gone = data.draw(st.sampled_from(sorted(apart)))
        found = settle(
            outputs,
            shuffled[0],
            [row for row in shuffled[1] if row["id"] != gone],
            tries=tries,
            filtered=True,
        )
        (output,) = [o for o in outputs if gone in {apart_id(o.id, k, tries) for k in range(1, tries + 1)}]
        again = next(k for k in range(1, tries + 1) if apart_id(output.id, k, tries) == gone)
        assert found.due[output.id] == again, "what comes after a try that is missing does not count"
        assert not [row for row in found.kept if row["id"] == output.id]


def test_parts_have_names_of_their_own():
    assert [part_name("metadata.csv", rank) for rank in (0, 1, 12)] == [
        "metadata.csv", "metadata.rank-1.csv", "metadata.rank-12.csv",
    ]  # fmt: skip


def test_a_finished_job_that_was_killed_while_it_wrote_its_report(root, bound, copy, whole):
    (copy / "report.html").rename(copy / ".0123456789abcdef.tmp")
    job(root, copy, bound)
    assert (copy / "report.html").exists()
    assert tree(copy) == tree(whole)
