"""Training in several processes: the same losses, one line of every mistake, nothing lost when one dies."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
import torch._dynamo  # here, and not in every process that is forked
import torch.distributed.checkpoint.hf_storage
import torch.distributed.fsdp
import torch.distributed.tensor
from PIL import Image

from msdm_kit.core.checkpoint import load_tensors
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.loader import TrainingStream
from msdm_kit.core.optimise import Optimiser
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.run import Run
from msdm_kit.plugins.training import saved_denoiser, train
from msdm_kit.plugins.training_events import Interrupted, Started
from msdm_kit.plugins.validation import Validation

from ..ranks import in_ranks, new_store
from ..toy import same, toy_folder

SPLITS = ["train"] * 5 + ["val"]
RECIPE = """\
name: many
data: {masks: [nucleus], crop: 16}
conditioners: {morphology: {type: hv_maps, masks: [nucleus], drop: 0.3}}
injectors: [{type: spade, from: [morphology], at: [middle, decoder], hidden: 4}]
backbone: {type: unet, channels: 8, multipliers: [1], blocks: 1, attention_strides: [], head_channels: 8, groups: 4}
train:
  {steps: 4, batch: 4, accumulate: 3, lr: 1e-3, clip: 0.5, precision: fp32, workers: 0, checkpointing: false,
   validate_every: 2, preview_every: 4, save_every: 2, keep_last: 3}
sample: {steps: 2}
"""  # noqa: E501


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("data"), [f"f{i:02d}" for i in range(6)], SPLITS)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipe") / "many.yaml"
    file.write_text(RECIPE)
    return load_recipe(file)


@pytest.fixture(scope="module")
def alone(recipe, data, tmp_path_factory):
    """The run in one process."""
    return Run(train(recipe, data, tmp_path_factory.mktemp("alone") / "run", device="cpu"))


def rows(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def assert_the_same(run, other):
    """But for the order in which numbers are added."""
    for ours, theirs in zip(rows(run), rows(other), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"seconds"}:
            assert ours[key] == pytest.approx(theirs[key], rel=2e-4), key
    (a, facts), (b, others) = load_tensors(run.weights), load_tensors(other.weights)
    assert facts["step"] == others["step"] == 4
    for name, tensor in a.items():
        # Adam turns a gradient near nothing, whose sign rounding decides, into a full step
        assert torch.quantile((tensor - b[name]).abs().flatten(), 0.95) < 1e-5, name


def count_steps(recipe, data, out, **options):
    """Train; what the listener was told."""
    events = []
    train(recipe, data, out, device="cpu", listener=events.append, **options)
    return [type(event).__name__ for event in events]


@pytest.mark.parametrize("count", [2, 4])
def test_the_number_of_processes_does_not_matter(recipe, data, alone, tmp_path, count):
    told = in_ranks(count, lambda rank: count_steps(recipe, data, tmp_path / "run"), tmp_path / "ranks")
    assert told[0].count("StepReport") == 4
    assert told[0].count("Saved") == 2
    assert not any(told[1:]), "only the leader tells"
    run = Run(tmp_path / "run")
    assert_the_same(run, alone)
    assert {p.name for p in run.folder.iterdir()} == {p.name for p in alone.folder.iterdir()}
    assert run.preview(4).is_file()


def when(step, rank, act):
    """Let this process do something before it begins a step."""
    plain = Optimiser.step

    def watched(self, batches):
        if self.here.rank == rank and self.done == step - 1:
            act()
        return plain(self, batches)

    Optimiser.step = watched


def kill(number):
    return lambda: os.kill(os.getpid(), number)


def test_a_call_to_stop_in_any_process_stops_all_and_the_run_goes_on(recipe, data, alone, tmp_path):
    def stopped(rank):
        when(3, 1, kill(signal.SIGINT))
        with pytest.raises(Interrupted) as caught:
            train(recipe, data, tmp_path / "run", device="cpu")
        return caught.value.step

    assert in_ranks(2, stopped, tmp_path / "stopped") == [3, 3]
    events = []
    # in another number of processes
    train(recipe, data, tmp_path / "run", device="cpu", resume=True, listener=events.append)
    assert [event.done for event in events if isinstance(event, Started)] == [3]
    assert_the_same(Run(tmp_path / "run"), alone)


def test_a_process_that_is_killed_loses_no_step_as_the_leader_saves(recipe, data, tmp_path):
    def dying(rank):
        when(4, 1, kill(signal.SIGKILL))
        train(recipe, data, tmp_path / "run", device="cpu")

    store = new_store()
    leader, dead = in_ranks(2, dying, tmp_path / "dying", store=store)
    assert dead is None
    assert leader["raised"] == "MsdmError"
    assert leader["text"].startswith("another process of the job has ended before its time;")
    assert "\n" not in leader["text"]
    run = Run(tmp_path / "run")
    assert run.checkpoints.steps == [2, 3]

    # torchrun starts all of them again, with the same words
    def words(rank):
        return count_steps(recipe, data, run.folder)

    # another torchrun, whose first start was refused: this is not its run
    refused, _ = in_ranks(2, words, tmp_path / "refused", restarts=1)
    assert refused["raised"] == "MsdmError"
    assert "add --resume" in refused["text"]
    again = in_ranks(2, words, tmp_path / "again", restarts=1, store=store)
    assert again[0].count("StepReport") == 1
    whole = Run(tmp_path / "whole")
    in_ranks(2, lambda rank: count_steps(recipe, data, whole.folder), tmp_path / "ranks")
    for name in ("weights", "best_weights"):
        assert same(load_tensors(getattr(run, name))[0], load_tensors(getattr(whole, name))[0])
    assert [{**row, "seconds": 0} for row in rows(run)] == [{**row, "seconds": 0} for row in rows(whole)]


def test_processes_that_are_started_again_before_anything_was_saved_begin_anew(recipe, data, tmp_path):
    def dying(rank):
        when(2, 0, kill(signal.SIGKILL))
        train(recipe, data, tmp_path / "run", device="cpu")

    dead, other = in_ranks(2, dying, tmp_path / "dying")
    assert dead is None
    assert other["text"].startswith("process 1 of 2: another process of the job has ended before its time;")
    again = in_ranks(
        2, lambda rank: count_steps(recipe, data, tmp_path / "run"), tmp_path / "again", restarts=1
    )
    assert again[0].count("StepReport") == 4


def test_a_mistake_of_one_process_ends_all_with_one_line(recipe, data, tmp_path):
    def damaged(rank):
        if rank == 1:
            plain = TrainingStream.sample

            def sample(self, n):
                if n > 20:
                    raise MsdmError("field 'f03' is damaged; mend it")
                return plain(self, n)

            TrainingStream.sample = sample
        train(recipe, data, tmp_path / "run", device="cpu")

    leader, other = in_ranks(2, damaged, tmp_path / "ranks")
    assert other == {"raised": "MsdmError", "text": "process 1 of 2: field 'f03' is damaged; mend it"}
    assert leader["raised"] == "SaidElsewhere"
    assert Run(tmp_path / "run").checkpoints.steps == [1], "crop 20 is of the second step"


def test_numbers_that_are_not_finite_in_one_process_end_all_with_one_line(recipe, data, tmp_path):
    def poisoned(rank):
        plain = Optimiser.step

        def step(self, batches):
            if rank == 1 and self.done == 2:
                batches[0].image[0, 0, 0, 0] = torch.nan
            return plain(self, batches)

        Optimiser.step = step
        train(recipe, data, tmp_path / "run", device="cpu")

    leader, other = in_ranks(2, poisoned, tmp_path / "ranks")
    assert leader["raised"] == "MsdmError"
    assert leader["text"].startswith("step 3: ")
    assert "f0" in leader["text"]
    assert other["raised"] == "SaidElsewhere"
    assert Run(tmp_path / "run").checkpoints.steps == [2]


@pytest.mark.parametrize("backwards", [False, True])
def test_where_split_weights_are_the_module_is_named_and_the_steps_done_are_saved(
    recipe, data, tmp_path, backwards
):
    section = recipe.train.model_copy(update={"sharding": "full"})
    sharded = recipe.model_copy(update={"train": section})

    def poison(module, inputs, output):
        if backwards and output.requires_grad:
            output.register_hook(lambda gradient: gradient * torch.nan)
        return output if backwards else output * torch.inf

    def overflowing(rank):
        plain = Optimiser.step

        def step(self, batches):
            if rank == 1 and self.done == 3:
                names = {n: m for n, m in self.denoiser.named_modules() if isinstance(m, torch.nn.Conv2d)}
                names["backbone.encoder.0.0.in_conv"].register_forward_hook(poison)
            return plain(self, batches)

        Optimiser.step = step
        train(sharded, data, tmp_path / "run", device="cpu")

    leader, other = in_ranks(2, overflowing, tmp_path / "ranks")
    what = "gradient of the output" if backwards else "output"
    assert leader["raised"] == "MsdmError"
    assert f"; first in the {what} of backbone.encoder.0.0.in_conv (Conv2d); weights" in leader["text"]
    assert other["raised"] == "SaidElsewhere"
    assert Run(tmp_path / "run").checkpoints.newest().step == 3


def test_what_all_find_wrong_the_leader_says(recipe, data, tmp_path):
    told = in_ranks(2, lambda rank: train(recipe, data / "nowhere", tmp_path / "run"), tmp_path / "ranks")
    assert [one["raised"] for one in told] == ["MsdmError", "SaidElsewhere"]
    assert "process" not in told[0]["text"]
    assert not (tmp_path / "run").exists()


def test_processes_that_would_train_something_else_are_refused(recipe, data, tmp_path):
    def other_seed(rank):
        section = recipe.train.model_copy(update={"seed": rank})
        train(recipe.model_copy(update={"train": section}), data, tmp_path / "run", device="cpu")

    told = in_ranks(2, other_seed, tmp_path / "ranks")
    assert "has other recipe than process" in told[0]["text"]
    assert told[1]["raised"] == "SaidElsewhere"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sharded_weights_give_the_same_run(recipe, data, alone, tmp_path, checkpointing):
    section = recipe.train.model_copy(update={"sharding": "full", "checkpointing": checkpointing})
    sharded = recipe.model_copy(update={"train": section})
    run = Run(tmp_path / "run")

    def stopped(rank):
        when(3, 1, kill(signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(sharded, data, run.folder, device="cpu")

    in_ranks(2, stopped, tmp_path / "stopped")
    assert run.checkpoints.steps == [2, 3]
    saved = run.claim(recipe, resume=True)
    assert saved.parts is not None
    alike = Optimiser(saved_denoiser(recipe, saved, run), recipe.train, total=4, drop={})
    alike.load(saved.tensors, saved.facts, saved.parts)
    assert same(alike.state()[0], saved.whole())
    if checkpointing:  # in one process, which holds all
        train(recipe, data, run.folder, device="cpu", resume=True)
    else:  # in another number of processes, of which one has no part of small weights
        words = {"resume": True}
        told = in_ranks(3, lambda rank: count_steps(sharded, data, run.folder, **words), tmp_path / "ranks")
        assert told[0].count("StepReport") == 1
        assert not any(told[1:])
        assert told[0].count("Previewed") == 1
        assert len(list(run.checkpoints.newest().parts.iterdir())) == 3
    ours, theirs = (np.asarray(Image.open(r.preview(4)), np.int16) for r in (run, alone))
    assert np.abs(ours - theirs).max() <= 2
    assert_the_same(run, alone)


def test_a_preview_that_does_not_fit_beside_split_weights_is_left_out(recipe, data, tmp_path):
    section = recipe.train.model_copy(update={"sharding": "full", "steps": 1})
    sharded = recipe.model_copy(update={"train": section})

    def full(self, weights):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def small(rank):
        Validation.network = full
        return count_steps(sharded, data, tmp_path / "run")

    told, others = in_ranks(2, small, tmp_path / "ranks")
    assert [name for name in told if name != "Checked"] == [
        "Started",
        "StepReport",
        "Validated",
        "Warned",
        "Saved",
    ]
    assert others == []
    assert not Run(tmp_path / "run").preview(1).exists()


def test_a_run_of_one_process_goes_on_with_split_weights(recipe, data, alone, tmp_path):
    section = recipe.train.model_copy(update={"sharding": "full"})
    sharded = recipe.model_copy(update={"train": section})
    run = Run(shutil.copytree(alone.folder, tmp_path / "run"))
    run.checkpoints.path(4).unlink()
    told = in_ranks(2, lambda rank: count_steps(sharded, data, run.folder, resume=True), tmp_path / "ranks")
    assert told[0].count("StepReport") == 2
    assert run.checkpoints.load(2).parts is None
    assert run.checkpoints.load(4).parts is not None
    assert_the_same(run, alone)
