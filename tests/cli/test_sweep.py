import re

import pytest

from msdm_kit import Pipeline

from .test_mistakes import refuses


@pytest.fixture
def trained(msdm, data, recipe, tmp_path):
    run = tmp_path / "trained"
    words = ("--set", "train.steps=1", "--set", "diffusion.timesteps=50")
    assert msdm("train", recipe, "--data", data, "--out", run, *words).code == 0
    return run


def test_a_sweep_of_one_solver(msdm, data, trained, tmp_path):
    out = tmp_path / "out"
    words = ("--solver", "dpmpp_2m", "--spacing", "logsnr", "--n", "1")
    outcome = msdm("sample", trained, "--data", data, "--out", out, "--solver-sweep", *words)
    assert outcome.code == 0, outcome.err
    evaluations = 50 + 40 + 40 + sum((5, 8, 10, 12, 16, 20, 30, 40))
    said = f"trying 10 combinations of solver, spacing and steps on 1 field, {evaluations} evaluations in all"
    assert said in outcome.out
    assert len(re.findall(r"^dpmpp_2m +logsnr +\d+ +\d+ +\d\.\d{4} +\d+\.\d\d", outcome.out, re.M)) == 8
    assert re.search(r"^ddim +leading +40 +40 ", outcome.out, re.M)
    assert re.search(
        r"^cheapest that reaches DDIM-40's \d\.\d{4}: --solver \w+ --spacing \w+ --steps", outcome.out, re.M
    )
    assert sorted(p.name for p in out.iterdir()) == ["sweep-images.png", "sweep.csv", "sweep.png"]
    for path in out.iterdir():
        assert f"wrote {path}" in outcome.out


def test_mistakes(msdm, data, trained, tmp_path):
    words = ("sample", trained, "--data", data, "--solver-sweep", "--out")
    refuses(msdm(*words, tmp_path / "out", "--steps", "5"), "takes no --steps")
    refuses(msdm(*words, data), "is not an empty folder")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_keeps_what_was_tried(msdm, data, trained, tmp_path, monkeypatch):
    calls, sample = 0, Pipeline.sample

    def interrupted(self, *args, **settings):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return sample(self, *args, **settings)

    monkeypatch.setattr(Pipeline, "sample", interrupted)
    outcome = msdm("sample", trained, "--data", data, "--out", tmp_path / "out", "--solver-sweep", "--n", "1")
    assert outcome.code == 130
    assert "2 of " in outcome.out
    assert f"combinations are in {tmp_path / 'out' / 'sweep.csv'}" in outcome.out
    assert len((tmp_path / "out" / "sweep.csv").read_text().splitlines()) == 3
