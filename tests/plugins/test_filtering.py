"""The quality filter: what passes is kept, what does not lies apart and says why, and nothing is lost."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.fields import mask_kinds
from msdm_kit.core.manifest import read_manifest
from msdm_kit.plugins.filtering import Acceptance, Limit, Thresholds, judge, noise_seed
from msdm_kit.plugins.metrics.adherence import Adherence
from msdm_kit.plugins.painting import paint
from msdm_kit.plugins.pipeline import Pipeline
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.sampling import job
from msdm_kit.plugins.sampling.events import Painted, Planned
from msdm_kit.plugins.sampling.pair_folder import rejected_folder
from msdm_kit.plugins.training import train

from ..toy import toy_folder
from .test_painting import IDS, TOY

LIMITS = Thresholds(min_adherence=0.6, max_colour_error=20).limits
NONE_PASSES = Thresholds(min_adherence=1)


@pytest.mark.parametrize(
    ("measures", "reason", "unmeasured"),
    [
        ({"mask_adherence": 0.6, "colour_error_levels": 20.0}, "", ()),
        ({"mask_adherence": 0.59, "colour_error_levels": 3.0}, "mask_adherence 0.59 < 0.6", ()),
        (
            {"mask_adherence": 0.25, "colour_error_levels": 20.5},
            "mask_adherence 0.25 < 0.6; colour_error_levels 20.5 > 20",
            (),
        ),
        ({"mask_adherence": math.nan, "colour_error_levels": 3.0}, "", ("mask_adherence",)),
        ({"mask_adherence": 0.7, "colour_error_levels": None}, "", ("colour_error_levels",)),
        (
            {"mask_adherence": math.nan, "colour_error_levels": 30.0},
            "colour_error_levels 30 > 20",
            ("mask_adherence",),
        ),
        ({}, "", ("mask_adherence", "colour_error_levels")),
    ],
)
def test_verdicts(measures, reason, unmeasured):
    verdict = judge(measures, LIMITS)
    assert (verdict.reason, verdict.unmeasured, verdict.kept) == (reason, unmeasured, not reason)


def test_a_further_measure_is_a_further_limit():
    limits = (*LIMITS, Limit("segmenter_agreement", 0.5))
    measures = {"mask_adherence": 0.9, "colour_error_levels": 1.0, "segmenter_agreement": 0.4}
    assert judge(measures, limits).reason == "segmenter_agreement 0.4 < 0.5"


@pytest.mark.parametrize(
    "given_", [{"min_adherence": v} for v in (-0.1, 1.01, 60, math.nan)]
    + [{"max_colour_error": v} for v in (-1, 256, math.inf, math.nan)],
)  # fmt: skip
def test_thresholds_out_of_range(given_):
    with pytest.raises(MsdmError, match="give a number from 0 to") as caught:
        Thresholds(**given_)
    assert "\n" not in str(caught.value)


VALUES = st.one_of(st.none(), st.just(math.nan), st.floats(0, 1))


@given(st.lists(st.lists(VALUES, min_size=1, max_size=4), max_size=6), st.floats(0, 1))
def test_the_counts_add_up(outputs, bound):
    """Each output is painted until one of its values passes, or there are no more."""
    limits = (Limit("m", bound),)
    acceptance, kept, painted = Acceptance(limits), 0, 0
    for values in outputs:
        for i, value in enumerate(values):
            verdict = judge({"m": value}, limits)
            painted += 1
            assert verdict.kept == (value is None or math.isnan(value) or value >= bound)
            acceptance.count(verdict, again=not verdict.kept and i + 1 < len(values))
            if verdict.kept:
                kept += 1
                break
    assert acceptance.accepted == kept
    assert acceptance.accepted + acceptance.rejected == len(outputs)
    assert acceptance.paintings == painted
    assert acceptance.reasons["m"] == painted - kept
    assert acceptance.rate == (kept / painted if painted else None)


def test_every_try_has_noise_of_its_own():
    assert noise_seed(7, 1) == 7
    assert len({noise_seed(seed, attempt) for seed in range(5) for attempt in range(1, 6)}) == 25
    assert noise_seed(7, 2) == noise_seed(7, 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("data"), IDS, ["train", "train", "val", "test"])


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return train(load_recipe("quickstart", TOY), data, tmp_path_factory.mktemp("runs") / "run", device="cpu")


JOB = {"n": 4, "split": "all", "steps": 1, "seed": 5, "device": "cpu"}


@pytest.fixture(scope="module")
def unfiltered(run, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "out"
    paint(run, data, out, **JOB)
    return out


@pytest.fixture(scope="module")
def tried(run, data, tmp_path_factory):
    """Four tries of every field, all rejected."""
    out = tmp_path_factory.mktemp("tried") / "out"
    return paint(run, data, out, thresholds=NONE_PASSES, tries=4, **JOB)


def adherences(folder):
    return {row["id"]: float(row["mask_adherence"]) for row in read_manifest(folder / "metadata.csv")}


def between(values):
    """A threshold with as many values below as above."""
    low, high = sorted(values)[len(values) // 2 - 1 :][:2]
    assert low < high
    return (low + high) / 2


def files(folder):
    """All but the report, which says when it was made."""
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != "report.html"}


def report(folder):
    return json.loads((folder / "summary.json").read_text())["filter"]


def test_at_0_all_are_kept(run, data, unfiltered, tmp_path):
    out = tmp_path / "out"
    summary = paint(run, data, out, thresholds=Thresholds(min_adherence=0, max_colour_error=255), **JOB)
    assert (summary.pairs, summary.seen, summary.rejected) == (4, 2, None)
    assert not rejected_folder(out).exists()
    assert report(out)["acceptance_rate"] == 1
    for id in IDS:
        name = f"images/{id}.png"
        assert (out / name).read_bytes() == (unfiltered / name).read_bytes()
    assert {row["try"] for row in read_manifest(out / "metadata.csv")} == {"1"}
    assert "filter" not in json.loads((unfiltered / "summary.json").read_text())
    assert "try" not in read_manifest(unfiltered / "metadata.csv")[0]


def test_where_none_passes_all_lie_apart_as_a_data_set(run, data, unfiltered, tmp_path):
    out = tmp_path / "out"
    summary = paint(run, data, out, thresholds=NONE_PASSES, **JOB)
    assert (summary.pairs, summary.seen, summary.sheet) == (0, 0, None)
    assert summary.rejected == tmp_path / "out.rejected"
    assert sorted(p.name for p in out.iterdir()) == ["job.json", "recipe.yaml", "report.html", "summary.json"]
    assert mask_kinds(summary.rejected) == ("cell", "nucleus")
    apart, source = FieldDataset(summary.rejected), FieldDataset(data)
    assert apart.ids == IDS
    for i, row in enumerate(apart.rows):
        assert row["rejected_because"].startswith("mask_adherence 0.")
        assert row["rejected_because"].endswith(" < 1")
        np.testing.assert_array_equal(apart[i].masks["cell"], source[i].masks["cell"])
        name = f"images/{IDS[i]}.png"
        assert (summary.rejected / name).read_bytes() == (unfiltered / name).read_bytes()
    assert (summary.rejected / "contact-sheet.png").stat().st_size > 1000
    counts = report(out)
    assert (counts["accepted"], counts["rejected"], counts["acceptance_rate"]) == (0, 4, 0)
    assert counts["rejected_paintings_by_measure"] == {"mask_adherence": 4}


def test_nothing_is_lost_and_all_is_repeated(run, data, unfiltered, tmp_path):
    measured = adherences(unfiltered)
    bound = between(measured.values())
    events = []
    for name, listener in (("out", events.append), ("again", lambda event: None)):
        summary = paint(run, data, tmp_path / name, thresholds=Thresholds(bound), listener=listener, **JOB)
    kept, apart = (FieldDataset(tmp_path / name) for name in ("out", "out.rejected"))
    assert kept.ids == [id for id in IDS if measured[id] >= bound]
    assert apart.ids == [id for id in IDS if measured[id] < bound]
    assert kept.ids
    assert apart.ids
    assert list(kept.rows[0]) == [column for column in apart.rows[0] if column != "rejected_because"]
    assert summary.seen == len({"a", "b"} & set(kept.ids)), "of the pairs that were kept"
    assert "out.rejected" in next(e for e in events if isinstance(e, Planned)).notes[-1]
    assert [e.id for e in events if isinstance(e, Painted) and e.rejected] == apart.ids
    for name in ("out", "out.rejected"):
        assert files(tmp_path / name) == files(tmp_path / name.replace("out", "again"))
    assert summary.acceptance.accepted + summary.acceptance.rejected == len(IDS)
    assert summary.figures["mask_adherence"] == pytest.approx(
        np.mean([measured[id] for id in kept.ids]), abs=1e-4
    )


def test_every_try_is_kept_apart(tried, unfiltered):
    apart = FieldDataset(tried.rejected)
    assert apart.ids == [f"{id}_try{k}" for id in IDS for k in (1, 2, 3, 4)]
    assert [row["try"] for row in apart.rows] == ["1", "2", "3", "4"] * len(IDS)
    assert {row["seed"] for row in apart.rows} == {"5"}
    assert {row["source_morphology"] for row in apart.rows} == set(IDS)
    images = [(tried.rejected / "images" / f"{id}.png").read_bytes() for id in apart.ids]
    assert len(set(images)) == len(images)
    assert images[::4] == [(unfiltered / "images" / f"{id}.png").read_bytes() for id in IDS]
    counts = report(tried.folder)
    assert (counts["rejected"], counts["paintings"], counts["rejected_paintings"]) == (4, 16, 16)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_first_try_that_passes_is_kept(run, data, tried, tmp_path, batch):
    measured = adherences(tried.rejected)
    series = {id: [measured[f"{id}_try{k}"] for k in (1, 2, 3, 4)] for id in IDS}
    bound = next(
        (low + high) / 2
        for low, high in zip(sorted(measured.values()), sorted(measured.values())[1:], strict=False)
        if any(values[0] < low + 1e-9 and max(values) > high - 1e-9 for values in series.values())
        and high - low > 2e-4
    )
    out = tmp_path / "out"
    summary = paint(run, data, out, thresholds=Thresholds(bound), tries=4, batch=batch, **JOB)
    expected = {
        id: next(k for k, value in enumerate(values, 1) if value >= bound)
        for id, values in series.items()
        if max(values) >= bound
    }
    rows = read_manifest(out / "metadata.csv")
    assert {row["id"]: int(row["try"]) for row in rows} == expected
    assert max(expected.values()) > 1
    for id, k in expected.items():
        same = tried.rejected / "images" / f"{id}_try{k}.png"
        assert (out / "images" / f"{id}.png").read_bytes() == same.read_bytes()
    apart = [row["id"] for row in read_manifest(out.with_name("out.rejected") / "metadata.csv")]
    assert apart == [f"{id}_try{k}" for id in IDS for k in range(1, expected.get(id, 5))]
    assert summary.acceptance.rate == len(expected) / (len(expected) + len(apart))


def test_fields_that_are_painted_together_are_tried_again_together(run, data, monkeypatch, tmp_path):
    monkeypatch.setattr(Pipeline, "at_once", lambda self, batch: batch)  # as on a GPU
    events = []
    asked = {"thresholds": NONE_PASSES, "tries": 2, "batch": 3, "listener": events.append}
    summary = paint(run, data, tmp_path / "out", **asked, **JOB)
    ids = [f"{id}_try{k}" for id in "abcd" for k in (1, 2)]
    assert FieldDataset(summary.rejected).ids == ids, "in the order of the plan"
    assert [event.id for event in events if isinstance(event, Painted)] == [*"abcabcdd"]
    assert (summary.acceptance.rejected, summary.acceptance.paintings) == (4, 8)


def test_what_cannot_be_measured_is_kept_and_counted(run, data, monkeypatch, tmp_path):
    monkeypatch.setattr(job, "measure", lambda target, image, real: Adherence(target.id, math.nan))
    summary = paint(run, data, tmp_path / "out", thresholds=NONE_PASSES, tries=3, **JOB)
    assert (summary.pairs, summary.rejected) == (4, None)
    assert report(tmp_path / "out")["kept_unmeasured"] == 4


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_an_interruption_leaves_two_whole_data_sets(run, data, unfiltered, tmp_path, stop_after):
    seen = []

    def stop(event):
        if isinstance(event, Painted):
            seen.append(event)
            if len(seen) == stop_after:
                raise KeyboardInterrupt

    bound = between(adherences(unfiltered).values())
    with pytest.raises(KeyboardInterrupt):
        paint(run, data, tmp_path / "out", thresholds=Thresholds(bound), listener=stop, **JOB)
    for name, rejected in (("out", False), ("out.rejected", True)):
        ids = [event.id for event in seen if bool(event.rejected) == rejected]
        if ids:
            assert FieldDataset(tmp_path / name).ids == ids
        else:
            assert not (tmp_path / name / "metadata.csv").exists()


def test_what_was_said_of_a_painting_is_not_said_of_what_is_painted_from_it(run, tried, tmp_path):
    paint(run, tried.rejected, tmp_path / "next", **{**JOB, "n": 1})
    (row,) = read_manifest(tmp_path / "next" / "metadata.csv")
    assert (row["try"], row["rejected_because"]) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tries": 2}, "give --tries 1 or more, with --min-adherence, --min-agreement or --max-colour-error"),
        ({"tries": 0, "thresholds": NONE_PASSES}, "give --tries 1 or more"),
        ({"thresholds": NONE_PASSES}, "out.rejected is not an empty folder"),
    ],
)
def test_a_mistake_leaves_no_folder(run, data, tmp_path, arguments, message):
    (tmp_path / "out.rejected").mkdir()
    (tmp_path / "out.rejected" / "mine.txt").touch()
    with pytest.raises(MsdmError, match=message) as caught:
        paint(run, data, tmp_path / "out", **arguments, **JOB)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_id_that_has_no_room_for_its_try(run, tmp_path):
    long = toy_folder(tmp_path / "data", ["x" * 198, "b"], ["val", "val"])
    with pytest.raises(MsdmError, match="cannot name a file"):
        paint(run, long, tmp_path / "out", thresholds=NONE_PASSES, tries=2, **JOB)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize("name", [".", "..", "a/..", "out", "a/out"])
def test_the_folder_of_rejected_ones_lies_beside(tmp_path, monkeypatch, name):
    inner = tmp_path / "one" / "two"
    (inner / "a").mkdir(parents=True)
    monkeypatch.chdir(inner)
    apart = rejected_folder(inner.__class__(name)).resolve()
    out = (inner / name).resolve()
    assert apart.parent == out.parent
    assert apart.name == f"{out.name}.rejected"
