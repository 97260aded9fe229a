"""A sampling job that is given again: it goes on, or is done, or is another one."""

import pytest

from msdm_kit.core.manifest import read_manifest
from msdm_kit.plugins.sampling.pair_folder import PairFolder


@pytest.fixture
def job(msdm, data, recipe, tmp_path):
    run = tmp_path / "run"
    assert msdm("train", recipe, "--data", data, "--out", run, "--set", "train.steps=1").code == 0
    asked = ("sample", run, "--data", data, "--out", tmp_path / "out", "--split", "all", "--steps", "1")
    return lambda *words: msdm(*asked, *words)


def test_the_same_command_goes_on(job, monkeypatch, tmp_path):
    whole, left = PairFolder.add, [2]

    def add(self, *arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        whole(self, *arguments)

    monkeypatch.setattr(PairFolder, "add", add)
    outcome = job("--n", "3")
    assert outcome.code == 130
    assert f"2 of 3 pairs are in {tmp_path / 'out'}, each whole; the same command goes on" in outcome.out
    monkeypatch.undo()
    outcome = job("--n", "3")
    assert (outcome.code, outcome.err) == (0, "")
    assert "painting 3 fields, 2 of them done already, in 1 step each, on cpu" in outcome.out
    assert "3/3 pairs" in outcome.out
    assert len(read_manifest(tmp_path / "out" / "metadata.csv")) == 3

    outcome = job("--n", "3")
    assert (outcome.code, outcome.err) == (0, "")
    assert "3 fields of this job, and all are painted already" in outcome.out
    assert f"pairs: {tmp_path / 'out'}" in outcome.out

    image = tmp_path / "out" / "images" / f"{read_manifest(tmp_path / 'out' / 'metadata.csv')[0]['id']}.png"
    image.write_bytes(image.read_bytes()[:-9])
    outcome = job("--n", "3")
    assert "note: 1 pair of which files are gone or damaged will be painted again" in outcome.out

    outcome = job("--n", "4")
    assert outcome.code == 2
    assert outcome.err == (
        f"error: {tmp_path / 'out'} holds another job: the number of pairs is 3 there and 4 here; "
        f"choose another folder, or give what that job was given\n"
    )
