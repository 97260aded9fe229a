import csv

import numpy as np
import pytest
import torch
from PIL import Image

from msdm_kit import load_recipe
from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins import sweep as module
from msdm_kit.plugins.sampling.events import Stepped
from msdm_kit.plugins.sweep import Point, SweepPlanned, Trial, plan, sweep
from msdm_kit.plugins.training import train

from ..toy import toy_folder

TOY = [
    "conditioners=null",
    "conditioners={morphology: {type: hv_maps, masks: [cell, nucleus], drop: 0.1}}",
    "injectors=[{type: spade, from: [morphology], at: [middle, decoder], hidden: 4}]",
    "backbone={channels: 8, multipliers: [1], head_channels: 8}",
    "backbone.groups=4",
    "data.crop=16",
    "diffusion.timesteps=60",
    "train={steps: 1, batch: 1, save_every: 1, validate_every: 9, preview_every: 9}",
    "sample.precision=fp32",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("sweep") / "data", ["a", "b", "v"], ["train", "train", "val"])


@pytest.fixture(scope="module")
def run(data):
    torch.manual_seed(0)
    return train(load_recipe("quickstart", TOY), data, data.parent / "run", device="cpu")


def test_the_plan():
    trials = plan(1000, (5, 8), None, None)
    assert trials[:2] == [Trial("ddim", "leading", 40, 40), Trial("ddim", "trailing", 40, 40)]
    of = {(t.solver, t.spacing): [] for t in trials}
    for t in trials:
        of[t.solver, t.spacing].append((t.steps, t.evaluations))
    assert of["heun", "logsnr"] == of["heun", "karras"] == [(3, 5), (4, 7)]
    for solver in ("unipc", "dpmpp_2m"):
        assert of[solver, "logsnr"] == of[solver, "karras"] == [(5, 5), (8, 8)]
    assert of["ddim", "trailing"] == [(40, 40), (5, 5), (8, 8)]
    assert "ddpm" not in {t.solver for t in trials}, "its noise has no end to be compared with"


def test_a_restricted_plan_keeps_the_baseline():
    assert plan(1000, (5, 40), "unipc", None)[2:] == [
        Trial("unipc", spacing, n, n) for spacing in ("logsnr", "karras") for n in (5, 40)
    ]
    assert plan(1000, (5, 40), "ddim", "trailing")[2:] == [Trial("ddim", "trailing", 5, 5)]
    assert {t.steps for t in plan(20, (5, 40), "unipc", None)} == {5, 20}, "a short schedule has no 40 steps"


def test_a_sweep(run, data, tmp_path):
    events, out = [], tmp_path / "out"
    found = sweep(run, data, out, n=1, device="cpu", counts=(2, 6), listener=events.append)
    with (out / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["solver"], r["spacing"], int(r["steps"]), int(r["evaluations"])) for r in rows] == [
        (p.trial.solver, p.trial.spacing, p.trial.steps, p.trial.evaluations) for p in found.points
    ]
    assert [float(r["error"]) for r in rows] == pytest.approx([p.error for p in found.points], abs=1e-6)

    planned = events[0]
    assert isinstance(planned, SweepPlanned)
    assert (planned.fields, planned.trials) == (1, len(rows))
    assert sum(e.fields for e in events if isinstance(e, Stepped)) == planned.evaluations
    assert [e for e in events if isinstance(e, Point)] == list(found.points)

    assert found.level == min(p.error for p in found.points[:2])
    reached = [p for p in found.points if p.error <= found.level]
    assert found.cheapest in reached
    assert found.cheapest.trial.evaluations == min(p.trial.evaluations for p in reached)
    for name in ("sweep.png", "sweep-images.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 300
            assert np.asarray(picture).std() > 1


def test_the_reference_is_at_no_distance_from_itself(run, data, tmp_path, monkeypatch):
    """As many steps of the same solver as stand for the end: the same noise, and so the same image."""
    monkeypatch.setattr(module, "END", ("unipc", 30, "logsnr"))
    found = sweep(
        run, data, tmp_path, n=2, device="cpu", counts=(3, 30), solver="unipc", spacing="logsnr", seed=4
    )
    few, many = (p for p in found.points if p.trial.solver == "unipc")
    assert many.error == 0 < few.error
    assert found.cheapest.error <= found.level


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"n": 0}, "cannot sweep over 0 fields"),
        ({"steps": 5}, "takes no --steps"),
        ({"eta": 0.5}, "takes no --eta"),
        ({"solver": "unipcc"}, "did you mean 'unipc'"),
        ({"solver": "ddpm"}, "solver 'ddpm' is noisy"),
        ({"spacing": "even"}, "spacing"),
        ({"guidance": {"colour": 2.0}}, "guidance names no condition 'colour'"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(run, data, tmp_path, settings, named):
    with pytest.raises(MsdmError, match=named) as error:
        sweep(run, data, tmp_path / "out", device="cpu", **settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty(run, data, tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(MsdmError, match="is not an empty folder"):
        sweep(run, data, tmp_path, device="cpu")
