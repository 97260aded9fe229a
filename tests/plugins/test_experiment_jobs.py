"""Jobs of an experiment's steps, one by one."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from msdm_kit.plugins import host
from msdm_kit.plugins.experiment.experiment import publish
from msdm_kit.plugins.experiment.jobs import JOBS
from msdm_kit.plugins.experiment.pictures import halves
from msdm_kit.plugins.experiment.steps import Ledger, Stopped, Task

from ..experiments import steps_of, toy_package, toy_plan


@pytest.fixture
def training(tmp_path, monkeypatch):
    """The step that trains a generator."""
    monkeypatch.syspath_prepend(toy_package(tmp_path / "package"))
    host.get_host.cache_clear()
    _, steps = steps_of(toy_plan(tmp_path))
    yield next(step for step in steps if step.name == "train.msdm")
    host.get_host.cache_clear()


def test_training_goes_on_where_it_was_stopped(tmp_path, training):
    shares = []

    def stop(share):
        shares.append(share)
        if len(shares) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    cut, whole = Ledger(tmp_path / "cut"), Ledger(tmp_path / "whole")
    cut.begin(training, "inputs")
    with pytest.raises(Stopped):
        JOBS["train"](Task(training, cut, "cpu", stop))
    assert shares == [0.25, 0.5]
    cut.begin(training, "inputs")
    rest = []
    JOBS["train"](Task(training, cut, "cpu", rest.append))
    assert rest == [0.75, 1.0]

    whole.begin(training, "inputs")
    JOBS["train"](Task(training, whole, "cpu", lambda share: None))
    runs = [ledger.folder(training.name) / "run" for ledger in (cut, whole)]
    a, b = (load_file(run / "weights.safetensors") for run in runs)
    assert all(torch.equal(a[key], b[key]) for key in b)
    lines = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]

    cut.begin(training, "other inputs")  # a changed plan: nothing of the old run is left
    assert not runs[0].exists()


def test_training_takes_no_field_that_is_tested_on(tmp_path, training):
    splits = {key: training.settings["recipe"]["data"][f"{key}_split"] for key in ("train", "validation")}
    assert splits == {"train": "train", "validation": "val"}


def test_painted_and_real_halves_are_of_the_same_groups():
    groups = [
        {"painted_halves": 4.0, "real_halves": 2.0},
        {"painted_halves": None, "real_halves": 100.0},
        {"painted_halves": 6.0, "real_halves": 3.0},
    ]
    assert halves({"groups": groups}, "painted") == "5"
    assert halves({"groups": groups}, "real") == "2.5"
    assert halves({"groups": groups[1:2]}, "real") == halves({"groups": []}, "painted") == "–"


def test_figures_of_an_earlier_plan_go_and_other_files_stay(tmp_path):
    last, out = tmp_path / "last", tmp_path / "out"
    for path in (last / "figures/figure3-msdm.svg", last / "done.json", out / "figures/figure3-sdm.svg",
                 out / "figures/mine.png", out / "notes.txt"):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    publish(last, out)
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == {"figures/figure3-msdm.svg", "figures/mine.png", "notes.txt"}
