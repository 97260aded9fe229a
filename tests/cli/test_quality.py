"""Paintings kept and set apart, as a user asks for it."""

import json

import pytest

from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.manifest import read_manifest
from msdm_kit.plugins.sampling.pair_folder import PairFolder


@pytest.fixture
def job(msdm, data, recipe, tmp_path):
    run = tmp_path / "run"
    assert msdm("train", recipe, "--data", data, "--out", run, "--set", "train.steps=1").code == 0
    return lambda out, *words: msdm(
        "sample",
        run,
        "--data",
        data,
        "--out",
        tmp_path / out,
        "--split",
        "all",
        "--n",
        "6",
        "--steps",
        "1",
        *words,
    )


def test_what_passes_is_kept_and_the_rest_lies_beside(job, tmp_path):
    outcome = job("plain")
    assert (outcome.code, "accept" in outcome.out) == (0, False)
    found = sorted(float(r["mask_adherence"]) for r in read_manifest(tmp_path / "plain" / "metadata.csv"))
    bound = (found[2] + found[3]) / 2
    outcome = job("out", "--min-adherence", str(bound), "--max-colour-error", "255")
    assert (outcome.code, outcome.err) == (0, "")
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    for line in (
        "accepted 3 of 6",
        "acceptance rate, of 6 paintings 50.0 %",
        f"rejected, not mask_adherence >= {bound:g} 3",
        "rejected, not colour_error_levels <= 255 0",
        f"pairs: {tmp_path / 'out'}",
        f"rejected: {tmp_path / 'out.rejected'}",
    ):
        assert line in lines
    assert any("3/6 pairs 3 rejected" in line for line in lines)
    kept, apart = (FieldDataset(tmp_path / name, masks=["nucleus"]).ids for name in ("out", "out.rejected"))
    assert sorted([*kept, *apart]) == [f"f{i}" for i in range(6)]
    counts = json.loads((tmp_path / "out" / "summary.json").read_text())["filter"]
    assert (counts["accepted"], counts["rejected"], counts["acceptance_rate"]) == (3, 3, 0.5)


def test_tries_are_painted_and_counted(job, tmp_path):
    outcome = job("out", "--min-adherence", "1", "--tries", "2")
    assert (outcome.code, outcome.err) == (0, "")
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert "accepted 0 of 6" in lines
    assert "acceptance rate, of 12 paintings 0.0 %" in lines
    assert f"no pair was kept: {tmp_path / 'out'} holds no data set" in lines
    assert any(line.startswith("evaluation 12/12 0/6 pairs 12 rejected") for line in lines)
    assert len(FieldDataset(tmp_path / "out.rejected", masks=["nucleus"])) == 12


def test_ctrl_c_says_where_both_are(job, monkeypatch, tmp_path):
    whole, left = PairFolder.add, [3]

    def add(self, *arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        whole(self, *arguments)

    monkeypatch.setattr(PairFolder, "add", add)
    outcome = job("out", "--min-adherence", "1", "--tries", "2")
    assert outcome.code == 130
    assert f"3 rejected ones are in {tmp_path / 'out.rejected'}, each whole" in outcome.out
    apart = FieldDataset(tmp_path / "out.rejected", masks=["nucleus"])
    assert apart.ids == ["f0_try1", "f0_try2", "f1_try1"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["job.json"]


def test_mistakes_are_one_line(job, tmp_path):
    for words, named in [
        (("--min-adherence", "60"), "--min-adherence 60: mask adherence is a Dice coefficient"),
        (("--min-adherence", "-0.1"), "from 0 to 1"),
        (("--min-adherence", "nan"), "from 0 to 1"),
        (("--max-colour-error", "300"), "from 0 to 255"),
        (("--max-colour-error", "much"), "--max-colour-error"),
        (("--tries", "3"), "with --min-adherence, --min-agreement or --max-colour-error"),
        (("--tries", "0", "--min-adherence", "0.5"), "--tries"),
        (("--min-adherence", "0.5", "--solver-sweep"), "a solver sweep paints no pairs"),
        (("--tries", "2", "--solver-sweep"), "what filters"),
    ]:
        outcome = job("out", *words)
        assert outcome.code == 2, words
        assert named in outcome.err
        assert outcome.err.count("\n") == 1
        assert not list(tmp_path.glob("out*"))
