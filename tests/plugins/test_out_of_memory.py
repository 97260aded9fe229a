"""Memory that runs out: painting goes on with less, the same bits; training says which settings would fit."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.optimise import Optimiser
from msdm_kit.core.sampling import Sampler
from msdm_kit.plugins import fitting, training
from msdm_kit.plugins.fitting import Room, advise
from msdm_kit.plugins.meta_pass import meta_denoiser
from msdm_kit.plugins.pipeline import Pipeline
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.run import Run
from msdm_kit.plugins.training import train

from ..toy import toy_folder

CPU = torch.device("cpu")
TOY = [
    "backbone={channels: 16, multipliers: [1, 2], blocks: 1, head_channels: 8, groups: 8}",
    "injectors.0.hidden=8",
    "data.crop=16",
    "train={steps: 4, batch: 4, workers: 0, precision: fp32, save_every: 100, validate_every: 100, "
    "preview_every: 100}",
    "sample={steps: 3, precision: fp32}",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy_folder(
        tmp_path_factory.mktemp("data"), list("abcde"), ["train", "train", "train", "val", "val"]
    )


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return train(load_recipe("quickstart", TOY), data, tmp_path_factory.mktemp("runs") / "run", device="cpu")


@pytest.fixture
def pipeline(run):
    return Pipeline.load(run, device="cpu")


@pytest.fixture(scope="module")
def fields(data):
    dataset = FieldDataset(data)
    return [dataset[i] for i in range(len(dataset))]


def short_of(monkeypatch, fits):
    """Let an evaluation of the network fail where `fits` (states, x) is False; the sizes that were tried."""
    real, tried = Sampler.evaluate, []

    def evaluate(self, states, x, t):
        if x.is_meta:  # an estimate
            return real(self, states, x, t)
        tried.append(len(x))
        if not fits(states, x):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, states, x, t)

    monkeypatch.setattr(Sampler, "evaluate", evaluate)
    return tried


def images(painted):
    return [s.image for s in painted]


def test_a_batch_that_does_not_fit_is_halved_and_the_pictures_are_the_same(
    pipeline, fields, monkeypatch, caplog
):
    whole = images(pipeline.sample(fields, seed=3))
    monkeypatch.setattr(Pipeline, "at_once", lambda self, batch: batch)  # as on a GPU
    tried, steps = short_of(monkeypatch, lambda states, x: len(x) <= 2), []
    found = images(pipeline.sample(fields, seed=3, batch=5, on_step=steps.append))
    assert [i.shape for i in found] == [i.shape for i in whole]
    for a, b in zip(found, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)
    assert set(tried) == {5, 2, 1}
    assert sum(steps) == 3 * len(fields)
    assert caplog.messages == ["out of memory with 5 fields at once: going on with 2"]
    tried.clear()
    list(pipeline.sample(fields, seed=3, batch=5))  # what was learnt holds
    assert set(tried) == {2, 1}


def test_what_was_counted_is_taken_back(pipeline, fields, monkeypatch):
    monkeypatch.setattr(Pipeline, "at_once", lambda self, batch: batch)
    calls = iter(range(100))
    short_of(monkeypatch, lambda states, x: next(calls) != 2)
    steps = []
    list(pipeline.sample(fields[:4], batch=4, on_step=steps.append))
    assert steps[:3] == [4, 4, -8]
    assert sum(steps) == 3 * 4


def keeps_nothing(states):
    from msdm_kit.core.conditioning import Signal

    return all(isinstance(s, Signal) for branch in states for site in branch.values() for _, s in site)


@pytest.mark.parametrize("window", [None, 24])
def test_a_single_one_goes_on_with_nothing_kept_bit_for_bit(pipeline, fields, window, monkeypatch, caplog):
    whole = images(pipeline.sample(fields[:2], seed=1, window=window))
    pipeline._sampler = None
    short_of(monkeypatch, lambda states, x: keeps_nothing(states))
    found = images(pipeline.sample(fields[:2], seed=1, window=window))
    for a, b in zip(found, whole, strict=True):
        np.testing.assert_array_equal(a, b)
    assert set(caplog.messages) == {
        "out of memory: going on without what is prepared once, which is slower and changes nothing"
    }


def test_windows_are_halved_where_they_stand(pipeline, fields, monkeypatch, caplog):
    whole = images(pipeline.sample(fields[:1], window=16, overlap=2))
    monkeypatch.setattr(Pipeline, "at_once", lambda self, batch: batch)
    calls, steps = [], []

    def fits(states, x):
        calls.append(len(x))
        return len(calls) < 2 or len(x) <= 2  # the second group of the first step is the first to fail

    short_of(monkeypatch, fits)
    found = images(pipeline.sample(fields[:1], window=16, overlap=2, batch=4, on_step=steps.append))
    np.testing.assert_allclose(found[0], whole[0], rtol=0, atol=2e-5)
    assert calls[:3] == [4, 4, 2]
    assert set(calls[3:]) <= {1, 2}
    assert sum(steps) == 3
    assert caplog.messages == ["out of memory with 4 windows at once: going on with 2"]


def test_where_nothing_helps_one_line_says_what_would_fit(pipeline, fields, monkeypatch):
    short_of(monkeypatch, lambda states, x: False)
    wide = replace(
        fields[0],
        masks={kind: np.tile(m, (8, 8)) for kind, m in fields[0].masks.items()},
        image=np.tile(fields[0].image, (1, 8, 8)),
    )
    with pytest.raises(MsdmError, match=r"^out of memory on cpu for a field of 320 x 320: --") as caught:
        list(pipeline.sample([wide], precision="bf16"))
    assert re.search(r"--window \d+ --batch 1 --memory 0.* would fit \(\d+ MiB\)$", str(caught.value))
    with pytest.raises(MsdmError, match="no smaller window fits"):
        list(pipeline.sample(fields[:1], window=8, precision="bf16"))


def test_another_mistake_is_no_lack_of_memory(pipeline, fields, monkeypatch):
    def evaluate(self, states, x, t):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Sampler, "evaluate", evaluate)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(pipeline.sample(fields))


def test_training_saves_what_is_done_and_says_what_would_fit(data, tmp_path, monkeypatch):
    real = Optimiser.step

    def step(self, batches):
        if self.done == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 bytes")
        return real(self, batches)

    monkeypatch.setattr(Optimiser, "step", step)
    large = [*TOY, "data.crop=32", "train.batch=16"]
    recipe = load_recipe("quickstart", large)
    with pytest.raises(MsdmError) as caught:
        train(recipe, data, tmp_path / "run", device="cpu")
    text = str(caught.value)
    assert re.match(
        r"out of memory on cpu: training takes about \d+ MiB, [\d.]+ [MG]iB are free; --set ", text
    )
    assert re.search(r"would fit \([^)]*\); what is saved is of step 2, and --resume goes on there$", text)
    assert Run(tmp_path / "run").checkpoints.steps == [2]
    monkeypatch.undo()
    # what it says may be set for the rest of the run
    fewer = load_recipe(
        "quickstart", [*large, "train.batch=4", "train.accumulate=4", "train.checkpointing=true"]
    )
    train(fewer, data, tmp_path / "run", resume=True, device="cpu")
    assert Run(tmp_path / "run").checkpoints.steps[-1] == 4
    other = load_recipe("quickstart", [*large, "train.batch=4"])
    with pytest.raises(MsdmError, match=r"train\.(batch|accumulate)"):
        train(other, data, tmp_path / "run", resume=True, device="cpu")


def test_where_none_is_left_for_the_advice_that_is_said(data, tmp_path, monkeypatch):
    def nothing(*args, **options):
        raise ImportError("/a/b.so: failed to map segment from shared object")

    monkeypatch.setattr(training, "build_denoiser", nothing)
    monkeypatch.setattr(fitting, "meta_denoiser", nothing)
    with pytest.raises(
        MsdmError, match=r"^out of memory on cpu: nor is there any left to find out what would"
    ):
        train(load_recipe("quickstart", TOY), data, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def room(monkeypatch, free):
    monkeypatch.setattr(fitting, "free_memory", lambda device: int(free))
    return Room.now(CPU)


def advice(monkeypatch, share, *overrides, checkpointing=False):
    """The advice where so much of what training takes is free."""
    made = load_recipe("quickstart", [*TOY, "train.batch=16", *overrides])
    denoiser = meta_denoiser(made, rows=[{"assay": "a", "indication": "b"}])
    took = fitting.estimate_memory(denoiser, made, CPU, checkpointing=checkpointing).more
    return advise(denoiser, made, room(monkeypatch, share * took), checkpointing=checkpointing, preview=0)


def test_the_mildest_change_that_fits_is_named(monkeypatch):
    assert "; --set train.checkpointing=true, which change no step, would fit (" in advice(monkeypatch, 1.2)
    fewer = advice(monkeypatch, 1.0, checkpointing=True)
    assert re.search(r"--set train\.batch=\d --set train\.accumulate=\d+, which change no step", fewer)
    batch, passes = (int(re.search(rf"train\.{key}=(\d+)", fewer)[1]) for key in ("batch", "accumulate"))
    assert batch * passes == 16
    assert "nothing smaller of this recipe fits" in advice(monkeypatch, 0.01)


def test_a_smaller_crop_is_named_where_passes_do_not_do(monkeypatch):
    said = advice(monkeypatch, 1.0, "data.crop=64", "train.batch=1", checkpointing=True)
    assert re.search(r"; --set data\.crop=\d+, would fit", said)


SCRIPT = """
import resource, sys
import torch
from msdm_kit.cli.main import run
from msdm_kit.plugins import training, painting, pipeline, report
import torch._dynamo, scipy.ndimage, transformers.models.bert.modeling_bert
used = next(int(x.split()[1]) for x in open("/proc/self/status") if x.startswith("VmSize")) * 1024
limit = used + int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of address spaces on Linux")
def test_a_true_limit_ends_training_with_one_line(tmp_path):
    folder = toy_folder(tmp_path / "data", ["a", "b"], ["train", "val"])
    words = ["train", "quickstart", "--data", folder, "--out", tmp_path / "run"]
    for text in (*TOY, "data.crop=32", "train.batch=128", "train.checkpointing=false"):
        words += ["--set", text]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "200", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MSDM_KIT_KERNELS": "off"},
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.fullmatch(
        r"error: out of memory on cpu: training takes about .* would fit \(.*\)\n", done.stderr
    )
