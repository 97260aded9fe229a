"""What may happen to a training: it ends with one line, its folder is whole, and going on is exact."""

import json
import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest
import torch

from msdm_kit.core import guard
from msdm_kit.core.checkpoint import load_facts, load_tensors
from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.denoiser import Denoiser
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.optimise import Optimiser, StepReport
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.run import Run
from msdm_kit.plugins.training import train
from msdm_kit.plugins.training_events import Interrupted, Saved, Started, Validated, Warned
from msdm_kit.plugins.validation import Validation

from ..toy import same, toy_folder

IDS = [f"f{i:02d}" for i in range(5)]
SPLITS = ["train"] * 4 + ["val"]
BASE = [
    "backbone={channels: 8, multipliers: [1, 2], blocks: 1, head_channels: 8, groups: 4, dropout: 0.1}",
    "injectors.0.hidden=4",
    "data.crop=16",
    "train={steps: 6, batch: 2, accumulate: 2, warmup: 1, lr: 5e-4, decay: cosine, precision: bf16}",
    "train={validate_every: 2, preview_every: 4, save_every: 2, checkpointing: false, workers: 0}",
    "sample.steps=2",
]


def toy(*overrides):
    return load_recipe("quickstart", [*BASE, *overrides])


@pytest.fixture(scope="module", autouse=True)
def drawing():
    """Conditions that draw where they should not, from every generator that a process has for all."""
    encode, observe = Denoiser.encode, guard.observe

    def noise():
        return torch.rand(()).item() + np.random.rand() + random.random()  # noqa: NPY002

    def noisy_encode(self, *inputs):
        signals = encode(self, *inputs)
        for signal_ in signals.values():
            signal_.data.mul_(1 + 0.01 * noise())
        return signals

    def noisy_observe(*inputs):
        seen = observe(*inputs)
        return {k: v * (1 + 0.01 * noise()) if v.is_floating_point() else v for k, v in seen.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Denoiser, "encode", noisy_encode)
        patch.setattr(guard, "observe", noisy_observe)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("data"), IDS, SPLITS)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    return Run(train(toy(), data, tmp_path_factory.mktemp("whole") / "run", device="cpu"))


def rows(run):
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def assert_same(run, whole):
    assert run.checkpoints.steps[-1] == whole.checkpoints.steps[-1]
    for path in ("weights", "best_weights"):
        (ours, facts), (theirs, others) = (load_tensors(getattr(r, path)) for r in (run, whole))
        assert same(ours, theirs)
        assert {k: v for k, v in facts.items() if k != "recipe"} == {
            k: v for k, v in others.items() if k != "recipe"
        }
    ours, theirs = run.checkpoints.newest(), whole.checkpoints.newest()
    assert same(ours.tensors, theirs.tensors)
    assert ours.facts["due"] == theirs.facts["due"] == []
    assert ours.facts["validation"] == theirs.facts["validation"]
    assert rows(run) == rows(whole)
    names = [sorted(p.name for p in r.previews.iterdir()) for r in (run, whole)]
    assert names[0] == names[1] == ["step-000004.png", "step-000006.png"]
    for name in names[0]:
        assert (run.previews / name).read_bytes() == (whole.previews / name).read_bytes()
    assert not list(run.folder.rglob("*.tmp"))


def at(step, act):
    def listen(event):
        if isinstance(event, StepReport) and event.step == step:
            act()

    return listen


def fails(data, out, text, *, resume=False, recipe=None, listener=lambda event: None):
    with pytest.raises(MsdmError, match=text) as caught:
        train(recipe or toy(), data, out, resume=resume, device="cpu", listener=listener)
    assert "\n" not in str(caught.value)


def test_every_signal_in_every_place(whole, data, tmp_path, monkeypatch):
    """In a step, in the validation and in a preview: what was due comes when the run goes on."""
    run = Run(tmp_path / "run")
    step, losses, preview = Optimiser.step, Validation.losses, Validation.preview
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    handlers = [signal.getsignal(n) for n in numbers]

    def send(number):
        os.kill(os.getpid(), number)

    def cut(after, due):
        with pytest.raises(Interrupted) as caught:
            train(toy(), data, run.folder, resume=run.folder.exists(), device="cpu")
        monkeypatch.undo()
        assert caught.value.step == after
        assert run.checkpoints.newest().step == after
        assert load_facts(run.weights)["step"] == after
        assert run.checkpoints.newest().facts["due"] == due

    def in_a_step(self, batches):
        send(signal.SIGTERM)
        return step(self, batches)

    def in_validation(self, stopped):
        send(signal.SIGUSR1)
        return losses(self, stopped)

    def in_a_preview(self, path, title, stopped, **more):
        send(signal.SIGTERM)
        send(signal.SIGTERM)  # a scheduler asks again
        return preview(self, path, title, stopped, **more)

    monkeypatch.setattr(Optimiser, "step", in_a_step)
    cut(1, [])
    monkeypatch.setattr(Validation, "losses", in_validation)
    cut(2, ["validation"])
    assert rows(run)[-1]["step"] == 2
    assert "validation" not in rows(run)[-1]
    monkeypatch.setattr(Validation, "preview", in_a_preview)
    cut(4, ["preview"])
    assert [row["step"] for row in rows(run) if "validation" in row] == [2, 4]
    assert handlers == [signal.getsignal(n) for n in numbers]
    train(toy(), data, run.folder, resume=True, device="cpu")
    assert_same(run, whole)


def test_a_file_of_the_data_set_that_is_removed(whole, tmp_path, monkeypatch):
    folder = toy_folder(tmp_path / "data", IDS, SPLITS)
    out = tmp_path / "run"
    image = folder / "images" / "f01.png"
    kept = image.read_bytes()
    made = FieldDataset.__init__
    monkeypatch.setattr(
        FieldDataset, "__init__", lambda self, *words, **options: made(self, *words, **options, budget=0)
    )
    fails(folder, out, r"images/f01\.png", listener=at(3, image.unlink))
    assert Run(out).checkpoints.newest().step in (3, 4, 5)
    assert [row["step"] for row in rows(Run(out)) if "loss" in row][-1] == Run(out).checkpoints.steps[-1]
    image.write_bytes(kept)
    assert_same(Run(train(toy(), folder, out, resume=True, device="cpu")), whole)


def test_a_loader_process_that_is_killed(whole, data, tmp_path):
    out, recipe = tmp_path / "run", toy("train.workers=2")

    def kill():
        multiprocessing.active_children()[0].kill()

    text = "a loader process has ended before its time .*lower train.workers, and go on with --resume"
    fails(data, out, text, recipe=recipe, listener=at(3, kill))
    assert not multiprocessing.active_children()
    assert Run(out).checkpoints.newest().step in (3, 4, 5)
    assert_same(Run(train(recipe, data, out, resume=True, device="cpu")), whole)


def test_files_that_may_grow_no_more(whole, data, tmp_path):
    """What a full disc does, and ``ulimit -f``; the steps since the last checkpoint are lost, and no more."""
    resource = pytest.importorskip("resource")
    run = Run(tmp_path / "run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(event):
        if isinstance(event, Saved) and event.step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    try:
        fails(
            data, run.folder, r"cannot write .*step-000004\.safetensors: .*space on the disc", listener=limit
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run.checkpoints.newest().step == load_facts(run.weights)["step"] == 2
    assert not list(run.folder.rglob("*.tmp"))
    assert_same(Run(train(toy(), data, run.folder, resume=True, device="cpu")), whole)


def test_the_clock_jumps_and_times_of_files_say_nothing(whole, data, tmp_path, monkeypatch):
    run, jumps = Run(tmp_path / "run"), iter([1e9, 5.0, 3e9, -1e5] * 10_000)

    def stop():
        raise RuntimeError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: next(jumps))
        with pytest.raises(RuntimeError, match="gone"):
            train(toy(), data, run.folder, device="cpu", listener=at(5, stop))
        assert run.checkpoints.steps == [2, 4]
        for step in (2, 4):
            os.utime(run.checkpoints.path(step), (1e9 - step, 1e9 - step))
        events = []
        train(toy(), data, run.folder, resume=True, device="cpu", listener=events.append)
    (started,) = [e for e in events if isinstance(e, Started)]
    assert started.done == 4
    seconds = [json.loads(line)["seconds"] for line in run.metrics.open() if "seconds" in line]
    assert seconds == sorted(seconds)
    assert 0 <= seconds[0] <= seconds[-1] < 1e5
    assert_same(run, whole)


def test_the_newest_checkpoint_is_damaged(whole, data, tmp_path):
    """It is named, the one before is used, and the weights are of that one, until others are saved."""
    run = Run(tmp_path / "run")

    def stop(event):
        if isinstance(event, Saved) and event.step == 4:
            raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        train(toy(), data, run.folder, device="cpu", listener=stop)
    path = run.checkpoints.path(4)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    seen = []

    def listen(event):
        if isinstance(event, Warned | Started | Validated):
            seen.append((event, load_facts(run.weights)["step"]))

    train(toy(), data, run.folder, resume=True, device="cpu", listener=listen)
    (started, _), (warned, _), (_, weights) = seen[:3]
    assert started.done == weights == 2
    assert "step-000004.safetensors is damaged: its bits are not those that were written" in warned.text
    assert_same(run, whole)
    for step in run.checkpoints.steps:
        run.checkpoints.path(step).write_bytes(b"x" * 100)
    fails(data, run.folder, r"none of the \d checkpoints in .* is whole", resume=True)


def test_a_run_that_was_never_saved_begins_anew(whole, data, tmp_path):
    run, events = Run(tmp_path / "run"), []

    def stop():
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        train(toy("train.validate_every=1"), data, run.folder, device="cpu", listener=at(1, stop))
    (run.folder / ".0123456789abcdef.tmp").write_bytes(b"half")
    assert run.checkpoints.steps == []
    train(toy(), data, run.folder, resume=True, device="cpu", listener=events.append)
    (started,) = [e for e in events if isinstance(e, Started)]
    assert started.done == 0
    assert started.notes[-1] == f"{run.folder} holds no checkpoint yet: the run begins anew"
    assert_same(run, whole)


def test_a_weight_that_stops_being_finite_is_named_and_never_saved(data, tmp_path, monkeypatch):
    run, step, events = Run(tmp_path / "run"), Optimiser.step, []

    def planting(self, batches):
        if self.done == 3:
            with torch.no_grad():
                self.denoiser.backbone.input_conv.weight[0, 0, 0, 0] = torch.nan
        return step(self, batches)

    monkeypatch.setattr(Optimiser, "step", planting)
    text = (
        r"step 4: loss nan, .*; first in the output of backbone\.input_conv \(Conv2d\), whose weight is not"
    )
    fails(data, run.folder, text, listener=events.append)
    (warned,) = [e for e in events if isinstance(e, Warned)]
    assert "the steps since 2 are lost: step 3: weights.backbone.input_conv.weight has numbers" in warned.text
    assert run.checkpoints.newest().step == load_facts(run.weights)["step"] == 2


def test_what_fails_between_checkpoints_leaves_one_of_the_step_before(whole, data, tmp_path, monkeypatch):
    run, encode = Run(tmp_path / "run"), Denoiser.encode
    broken = []

    def overflowing(self, *inputs):
        signals = encode(self, *inputs)
        for signal_ in signals.values() if broken else ():
            signal_.data.div_(0)
        return signals

    monkeypatch.setattr(Denoiser, "encode", overflowing)
    fails(
        data, run.folder, "step 6: conditioner .* encodes numbers", listener=at(5, lambda: broken.append(1))
    )
    monkeypatch.undo()
    assert run.checkpoints.newest().step == 5
    assert_same(Run(train(toy(), data, run.folder, resume=True, device="cpu")), whole)


def test_a_failure_in_the_middle_of_an_update_is_not_saved(data, tmp_path, monkeypatch):
    run = Run(tmp_path / "run")
    made = []

    def update(self):
        made.append(1)
        if len(made) == 4:
            raise MsdmError("no room for the averages")

    monkeypatch.setattr("msdm_kit.core.ema.Ema.update", update)
    fails(data, run.folder, "no room")
    assert run.checkpoints.newest().step == 2
