"""Training from a folder to a run: what it leaves, what it refuses, and that only the recipe matters."""

import json
import math
import os
import signal

import pytest
import torch

from msdm_kit.core.checkpoint import load_tensors, save_tensors
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.optimise import Optimiser, StepReport
from msdm_kit.core.seeds import seed_for
from msdm_kit.plugins.recipe_files import dump_recipe, load_recipe
from msdm_kit.plugins.run import Run
from msdm_kit.plugins.splits import HELD_OUT
from msdm_kit.plugins.training import total_steps, train
from msdm_kit.plugins.training_events import Checked, Interrupted, Previewed, Saved, Started, Validated

from ..toy import same, toy_folder

IDS = [f"f{i:02d}" for i in range(6)]
SPLITS = ["train"] * 5 + ["val"]
BASE = [
    "backbone={channels: 16, multipliers: [1, 2], blocks: 1, head_channels: 16, groups: 4, dropout: 0.1}",
    "injectors.0.hidden=8",
    "data.crop=32",
    "train={steps: 4, batch: 2, accumulate: 2, precision: fp32, warmup: 1, lr: 5e-4}",
    "train={validate_every: 2, preview_every: 4, save_every: 2}",
    "sample.steps=2",
]


class Stopped(Exception):
    """The machine went down."""


def toy(*overrides: str):
    return load_recipe("quickstart", [*BASE, *overrides])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("data"), IDS, SPLITS)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run from start to end, and its events."""
    events = []
    folder = train(
        toy(), data, tmp_path_factory.mktemp("whole") / "run", device="cpu", listener=events.append
    )
    return Run(folder), events


def stop_at(step: int, action):
    def listen(event):
        if isinstance(event, StepReport) and event.step == step:
            action()

    return listen


def crash():
    raise Stopped


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def lines(run: Run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def untimed(run: Run):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(run)]


def newest(run: Run):
    return run.checkpoints.path(run.checkpoints.steps[-1])


def assert_same_run(a: Run, b: Run):
    assert a.checkpoints.steps[-1] == b.checkpoints.steps[-1]
    for path in (lambda run: run.weights, lambda run: run.best_weights, newest):
        (ours, facts), (theirs, others) = (load_tensors(path(run)) for run in (a, b))
        assert same(ours, theirs)
        assert {k: v for k, v in facts.items() if k != "recipe"} == {
            k: v for k, v in others.items() if k != "recipe"
        }
    assert untimed(a) == untimed(b)


def test_what_a_run_leaves(whole, data):
    run, _ = whole
    assert {p.name for p in run.folder.iterdir()} == {
        "recipe.yaml", "weights.safetensors", "best.safetensors", "checkpoints", "metrics.jsonl", "previews",
    }  # fmt: skip
    assert load_recipe(run.recipe_file) == toy()
    steps = [line for line in lines(run) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert [line["images"] for line in steps] == [4, 8, 12, 16]
    assert all(math.isfinite(line["loss"]) and line["gradient_norm"] > 0 for line in steps)
    validated = [line for line in lines(run) if "validation" in line]
    assert [line["step"] for line in validated] == [2, 4]
    assert list(validated[0]["validation"]) == ["t=0.125", "t=0.375", "t=0.625", "t=0.875"]
    assert all(math.isfinite(v) for v in validated[0]["validation"].values())
    assert run.preview(4).read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in run.preview(4).parent.iterdir()] == ["step-000004.png"]
    tensors, facts = load_tensors(run.weights)
    assert facts["step"] == 4
    assert facts["conditioners"]["text"]["vocab"]
    assert not any(k.startswith(("ema.", "optimizer.")) for k in tensors)


def test_events(whole):
    _, events = whole
    kinds = [type(e) for e in events]
    assert kinds[:6] == [Checked] * 5 + [Started]
    started = events[5]
    assert (started.total, started.done, started.fields, started.device) == (4, 0, 5, "cpu")
    (note,) = started.notes
    assert note.startswith("train.checkpointing=auto is off: training takes about")
    assert kinds[6:] == [
        StepReport, StepReport, Validated, Saved, StepReport, StepReport, Validated, Previewed, Saved,
    ]  # fmt: skip


def test_weights_are_the_averages(whole):
    run, _ = whole
    weights, _ = load_tensors(run.weights)
    state, _ = load_tensors(newest(run))
    averaged = {k.removeprefix("ema."): v for k, v in state.items() if k.startswith("ema.")}
    assert same({k: weights[k] for k in averaged}, averaged)
    assert not same(averaged, {k: state[f"weights.{k}"] for k in averaged})


def test_the_same_recipe_gives_the_same_run(whole, data, tmp_path):
    torch.manual_seed(9)
    assert_same_run(Run(train(toy(), data, tmp_path / "run", device="cpu")), whole[0])


@pytest.mark.parametrize(("step", "action", "raised"), [(3, crash, Stopped), (3, interrupt, Interrupted)])
def test_a_resumed_run_is_the_whole_one(whole, data, tmp_path, step, action, raised):
    out = tmp_path / "run"
    with pytest.raises(raised):
        train(toy(), data, out, device="cpu", listener=stop_at(step, action))
    events = []
    run = Run(train(toy(), data, out, resume=True, device="cpu", listener=events.append))
    (started,) = [e for e in events if isinstance(e, Started)]
    assert started.done == (2 if raised is Stopped else 3)
    assert_same_run(run, whole[0])
    assert run.preview(4).read_bytes() == whole[0].preview(4).read_bytes()


def test_an_interrupt_leaves_the_handler_as_it_was(data, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        train(toy(), data, tmp_path / "run", device="cpu", listener=stop_at(1, interrupt))
    assert caught.value.step == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_finished_run_has_nothing_left_to_do(whole, data):
    run, _ = whole
    before = load_tensors(newest(run))[0]
    events = []
    train(toy(), data, run.folder, resume=True, device="cpu", listener=events.append)
    assert not any(isinstance(e, StepReport) for e in events)
    assert same(load_tensors(newest(run))[0], before)
    assert len(lines(run)) == 6


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_do_not_matter(whole, data, tmp_path, workers):
    recipe = toy(f"train.workers={workers}")
    assert_same_run(Run(train(recipe, data, tmp_path / "run", device="cpu")), whole[0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_does_not_matter(data, tmp_path, monkeypatch, precision):
    """Neither from the start, nor where a run goes on with more memory or with less."""
    change = f"train.precision={precision}"
    whole = Run(train(toy(change), data, tmp_path / "whole", device="cpu"))
    monkeypatch.setattr("msdm_kit.plugins.estimate.free_memory", lambda device: 0)
    events = []
    stop = stop_at(3, interrupt)
    with pytest.raises(Interrupted):
        train(toy(change), data, tmp_path / "cut", device="cpu", listener=stop)
    monkeypatch.undo()
    run = Run(train(toy(change), data, tmp_path / "cut", resume=True, device="cpu", listener=events.append))
    (started,) = [e for e in events if isinstance(e, Started)]
    assert "is off" in started.notes[0]
    assert_same_run(run, whole)


def test_auto_is_checkpointing_where_memory_is_short(data, tmp_path, monkeypatch):
    seen = []
    step = Optimiser.step

    def spy(self, batches):
        seen.append(self.denoiser.backbone.checkpointing)
        return step(self, batches)

    monkeypatch.setattr(Optimiser, "step", spy)
    train(toy("train.steps=1"), data, tmp_path / "much", device="cpu")
    monkeypatch.setattr("msdm_kit.plugins.estimate.free_memory", lambda device: 0)
    train(toy("train.steps=1"), data, tmp_path / "little", device="cpu")
    train(toy("train.steps=1", "train.checkpointing=false"), data, tmp_path / "told", device="cpu")
    assert seen == [False, True, False]


@pytest.mark.parametrize(
    "change",
    [
        "train.workers=1",
        "train.checkpointing=true",
        "train.validate_every=1",
        "train.preview_every=3",
        "train.save_every=1",
        "train={keep_last: 1, keep_best: 3}",
        "sample={solver: ddpm, guidance: {morphology: 2.0}}",
    ],
)
def test_resume_with_what_does_not_change_the_weights(whole, change):
    run, recipe = whole[0], toy(change)
    assert recipe != toy()
    found = run.claim(recipe, resume=True)
    assert found.step == 4
    assert found.tensors


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("train.lr=1e-3", "train.lr: 0.0005 -> 0.001"),
        ("train.steps=9", "train.steps: 4 -> 9"),
        ("train.seed=1", "train.seed: 0 -> 1"),
        ("data.crop=16", "data.crop: 32 -> 16"),
        ("conditioners.colour.drop=0.5", r"conditioners.colour.drop: 0.1 -> 0.5"),
        ("diffusion.prediction=eps", "diffusion.prediction: 'v' -> 'eps'"),
        ("backbone.blocks=2", "backbone.blocks: 1 -> 2"),
    ],
)
def test_another_recipe_is_refused(whole, data, change, shown):
    run, _ = whole
    before = newest(run).read_bytes(), run.metrics.read_bytes()
    with pytest.raises(MsdmError) as caught:
        train(toy(change, "train.workers=1"), data, run.folder, resume=True, device="cpu")
    assert f"is a run of another recipe: {shown};" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (newest(run).read_bytes(), run.metrics.read_bytes()) == before


def test_names_are_no_difference(whole):
    recipe = toy()
    other = recipe.model_copy(update={"name": "other", "summary": "s"})
    assert whole[0].claim(other, resume=True) is not None


def test_a_resumed_run_has_the_recipe_that_it_was_resumed_with(data, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        train(toy(), data, out, device="cpu", listener=stop_at(3, crash))
    other = toy("sample.steps=1", "train.save_every=3")
    train(other, data, out, resume=True, device="cpu")
    assert load_recipe(Run(out).recipe_file) == other
    assert load_tensors(Run(out).weights)[1]["recipe"] == other.model_dump(mode="json", by_alias=True)


def test_metrics_cut_by_a_crash(whole, data, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        train(toy(), data, out, device="cpu", listener=stop_at(3, crash))
    with Run(out).metrics.open("a") as f:
        f.write('{"step": 4, "lo')
    train(toy(), data, out, resume=True, device="cpu")
    assert untimed(Run(out)) == untimed(whole[0])


def test_seconds_go_on_after_a_resume(data, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(toy(), data, out, device="cpu", listener=stop_at(1, interrupt))
    (line,) = lines(Run(out))
    Run(out).metrics.write_text(json.dumps({**line, "seconds": 1000.0}) + "\n")
    train(toy(), data, out, resume=True, device="cpu")
    seconds = [entry["seconds"] for entry in lines(Run(out)) if "seconds" in entry]
    assert seconds == sorted(seconds)
    assert seconds[0] == 1000
    assert Run(out).seconds() == seconds[-1] > 1000


def test_a_recipe_by_the_path_of_its_file(data, tmp_path):
    (tmp_path / "mine.yaml").write_text(dump_recipe(toy("train.steps=1")))
    run = Run(train(tmp_path / "mine.yaml", data, tmp_path / "run", device="cpu"))
    assert load_recipe(run.recipe_file) == toy("train.steps=1")


def test_a_checkpoint_whose_recipe_is_not_of_this_version(tmp_path):
    run = Run(tmp_path)
    later = {**toy().model_dump(mode="json"), "later": 1}
    save_tensors(run.checkpoints.path(1), {}, {"step": 1, "recipe": later})
    with pytest.raises(MsdmError, match=r"step-000001\.safetensors: .*later: unknown key"):
        run.claim(toy(), resume=True)


def test_folders_that_are_refused(whole, data, tmp_path):
    run, _ = whole
    with pytest.raises(MsdmError, match="holds a run; add --resume"):
        train(toy(), data, run.folder, device="cpu")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(MsdmError, match="is not empty"):
        train(toy(), data, tmp_path / "letters", device="cpu")
    with pytest.raises(MsdmError, match="holds no checkpoint to resume"):
        train(toy(), data, tmp_path / "none", resume=True, device="cpu")
    assert [p.name for p in (tmp_path / "letters").iterdir()] == ["a.txt"]
    assert not (tmp_path / "none").exists()


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "run").mkdir()
    assert Run(tmp_path / "run").claim(toy(), resume=False) is None


def test_nothing_is_written_when_the_data_are_wrong(data, tmp_path):
    with pytest.raises(MsdmError, match=r"smaller than data\.crop 64"):
        train(toy("data.crop=64"), data, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_other_fields_are_refused(whole, tmp_path):
    other = toy_folder(tmp_path / "other", [f"g{i}" for i in range(6)], SPLITS)
    with pytest.raises(MsdmError, match="was trained on other fields than the 5 in"):
        train(toy(), other, whole[0].folder, resume=True, device="cpu")


def test_the_facts_are_those_of_the_first_start(data, tmp_path):
    """A manifest whose words have changed since does not change the vocabulary that was trained."""
    folder = toy_folder(tmp_path / "data", IDS, SPLITS)
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(toy(), folder, out, device="cpu", listener=stop_at(1, interrupt))
    facts = load_tensors(newest(Run(out)))[1]["conditioners"]
    text = (folder / "metadata.csv").read_text()
    (folder / "metadata.csv").write_text(text.replace("organ 1", "organ 1 quite another"))
    train(toy(), folder, out, resume=True, device="cpu")
    assert load_tensors(newest(Run(out)))[1]["conditioners"] == facts


def test_too_few_fields_to_hold_any_out(tmp_path):
    ids = [i for i in (f"x{i}" for i in range(20)) if seed_for("held out", i) % HELD_OUT][:3]
    events = []
    folder = train(
        toy("train.steps=1"),
        toy_folder(tmp_path / "d", ids),
        tmp_path / "run",
        device="cpu",
        listener=events.append,
    )
    (started,) = [e for e in events if isinstance(e, Started)]
    assert "no validation" in started.notes[0]
    assert not (folder / "previews").exists()
    assert not any(isinstance(e, Validated | Previewed) for e in events)


def test_total_steps():
    assert total_steps(toy(), 999) == 4
    epochs = toy("train.steps=null", "train.epochs=3")
    assert total_steps(epochs, 10) == 7
    assert total_steps(epochs, 1) == 1


def test_a_run_goes_on_longer_where_the_learning_rate_does_not_follow_the_length(data, tmp_path):
    constant = "train.decay=constant"
    short, long = toy(constant, "train.steps=2"), toy(constant, "train.steps=4")
    train(short, data, tmp_path / "run", device="cpu")
    train(long, data, tmp_path / "run", device="cpu", resume=True)
    train(long, data, tmp_path / "once", device="cpu")
    weights = [load_tensors(Run(tmp_path / name).weights)[0] for name in ("run", "once")]
    assert same(*weights)
    with pytest.raises(MsdmError, match="another recipe"):
        train(toy("train.decay=cosine", "train.steps=8"), data, tmp_path / "run", resume=True)
