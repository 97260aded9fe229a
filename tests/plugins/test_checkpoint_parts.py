"""Checkpoints whose tensors are split among processes: their folder, its seal, and what is left."""

import json
import os
import resource
import signal

import pytest
import torch
import torch.distributed.checkpoint.hf_storage  # here, and not in every process that is forked
import torch.distributed.tensor

from msdm_kit.core.checkpoint import DamagedFile, load_facts, load_tensors, save_tensors
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.processes import joined
from msdm_kit.core.recipe import TrainSection
from msdm_kit.plugins import checkpoints as module
from msdm_kit.plugins.checkpoints import PARTS
from msdm_kit.plugins.run import Run

from ..ranks import in_ranks

SIZE = 6


def state(step, loss=None):
    """As in two processes."""
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    shard = [torch.distributed.tensor.Shard(0)]
    split = {"weights.a": torch.full((SIZE, 2), float(step)), "ema.a": torch.full((SIZE, 2), step / 2)}
    tensors = {
        n: torch.distributed.tensor.distribute_tensor(t, mesh, shard, src_data_rank=None)
        for n, t in split.items()
    }
    tensors["optimizer.step.a"] = torch.tensor(float(step))
    return tensors, {"step": step, "ema_updates": step, "due": [], "validation": loss, "recipe": {}}


def save(run, folder, losses, *, last=2, best=1, before=lambda rank, step: None):
    """Save a step for each loss, in two processes; what each raised, in words."""

    def go(rank):
        with joined() as here:
            for step, loss in enumerate(losses, 1):
                before(rank, step)
                section = TrainSection(steps=1, keep_last=last, keep_best=best)
                run.save(*state(step, loss), section, here)

    return in_ranks(2, go, folder)


def parts_of(run, step):
    return run.checkpoints.folder / load_facts(run.checkpoints.path(step))[PARTS]["folder"]


@pytest.fixture
def run(tmp_path):
    """Steps 1 to 4, of which 2 is the best, 3 and 4 the last."""
    run = Run(tmp_path / "run")
    assert save(run, tmp_path / "ranks", [0.5, 0.1, 0.4, 0.3]) == [None, None]
    return run


def test_what_is_kept_has_its_parts_and_the_others_are_gone(run):
    assert run.checkpoints.steps == [2, 3, 4]
    names = {path.name for path in run.checkpoints.folder.iterdir()}
    assert names == {n for k in (2, 3, 4) for n in (f"step-{k:06d}.safetensors", parts_of(run, k).name)}
    found = run.checkpoints.newest()
    assert (found.step, found.warnings) == (4, ())
    assert {n: (t.device.type, t.shape) for n, t in found.tensors.items()} == {
        "weights.a": ("meta", (SIZE, 2)),
        "ema.a": ("meta", (SIZE, 2)),
        "optimizer.step.a": ("meta", ()),
    }
    whole = found.whole()
    assert whole["weights.a"].tolist() == [[4.0, 4.0]] * SIZE
    assert whole["optimizer.step.a"] == 4
    for path, step in ((run.weights, 4), (run.best_weights, 2)):
        tensors, facts = load_tensors(path)
        assert {n: t.tolist() for n, t in tensors.items()} == {"a": [[step / 2] * 2] * SIZE}
        assert facts["step"] == step
        assert PARTS not in facts


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (flip, r"shard-00002-model-00001-of-00001.safetensors is damaged: its bits are not those"),
        (
            lambda path: path.unlink(),
            r"shard-00002\S+ is missing: the parts of step-000004.safetensors are not",
        ),
        (lambda path: (path.parent / "x").touch(), r"/x is not of it"),
    ],
)
def test_damage_of_a_part_is_named_and_the_checkpoint_before_is_used(run, harm, text):
    harm(parts_of(run, 4) / "shard-00002-model-00001-of-00001.safetensors")
    found = run.checkpoints.newest()
    assert found.step == 3
    assert len(found.warnings) == 1
    with pytest.raises(DamagedFile, match=text):
        run.checkpoints.load(4)
    run.write_weights(found, TrainSection(steps=1))
    assert load_tensors(run.weights)[1]["step"] == 3


def test_a_folder_of_parts_that_is_gone(run):
    parts = parts_of(run, 4)
    parts.rename(run.folder / "elsewhere")
    with pytest.raises(DamagedFile, match=r"the parts of .*step-000004.safetensors cannot be read"):
        run.checkpoints.load(4)


@pytest.mark.parametrize(
    "about",
    [
        {"folder": "../../elsewhere", "files": {}},
        {"folder": "step-000001.0123456789abcdef", "files": {"../x.safetensors": ""}},
        {"folder": 3, "files": {}},
        {"folder": "step-000001.0123456789abcdef", "files": [1]},
        {"files": {}},
        [],
        None,
        "x",
    ],
)
def test_parts_that_no_run_names(tmp_path, about):
    run = Run(tmp_path)
    facts = {"step": 1, "ema_updates": 1, "due": [], "validation": None, "recipe": {}, PARTS: about}
    save_tensors(run.checkpoints.path(1), {}, facts)
    (run.checkpoints.folder / "step-000001.0123456789abcdee").mkdir()
    with pytest.raises(DamagedFile, match=r"its parts are .*, which no run writes") as caught:
        run.checkpoints.load(1)
    assert str(caught.value).isprintable()
    run.checkpoints.prune(1, last=1, best=1)
    assert [path.name for path in run.checkpoints.folder.iterdir()] == ["step-000001.safetensors"]


def test_parts_without_their_file_are_deleted_and_those_of_a_damaged_one_kept(run):
    left = run.checkpoints.folder / "step-000007.0123456789abcdef"
    other = run.checkpoints.folder / "step-000004.0123456789abcdef"
    for folder in (left, other):
        (folder / "1").mkdir(parents=True)
        (folder / "1" / "x.safetensors").touch()
    damaged, parts = run.checkpoints.path(3), parts_of(run, 3)
    damaged.write_bytes(b"")
    run.checkpoints.tidy()
    assert not left.exists()
    assert not other.exists()
    assert parts.is_dir()
    assert parts_of(run, 4).is_dir()


def test_a_process_that_cannot_write_leaves_the_checkpoint_before(tmp_path):
    run = Run(tmp_path / "run")

    def limit(rank, step):
        if (rank, step) == (1, 2):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    told = save(run, tmp_path / "ranks", [0.5, 0.4], before=limit)
    raised = {answer["raised"] for answer in told if answer is not None}
    assert raised <= {"MsdmError", "SaidElsewhere"}, told
    assert any("File too large" in answer["text"] for answer in told if answer is not None)
    assert run.checkpoints.steps == [1]
    names = {path.name for path in run.checkpoints.folder.iterdir()}
    assert names == {"step-000001.safetensors", parts_of(run, 1).name}
    assert run.checkpoints.newest().step == 1


def test_a_leader_that_cannot_make_a_checkpoint_of_the_parts_deletes_them(tmp_path, monkeypatch):
    run = Run(tmp_path / "run")

    def full(*args):
        raise MsdmError("the disc is full")

    monkeypatch.setattr(module, "save_tensors", full)
    leader, other = save(run, tmp_path / "ranks", [0.5])
    assert leader["text"] == "the disc is full"
    assert other is None, "it went on, and is told when it meets the leader again"
    assert list(run.checkpoints.folder.iterdir()) == []


def test_a_number_that_is_not_finite_in_one_process_is_not_saved_by_any(tmp_path):
    run = Run(tmp_path / "run")

    def go(rank):
        with joined() as here:
            tensors, facts = state(1)
            if rank == 1:
                tensors["ema.a"].to_local().fill_(float("nan"))
            run.save(tensors, facts, TrainSection(steps=1), here)

    told = in_ranks(2, go, tmp_path / "ranks")
    assert told[0]["raised"] == "MsdmError"
    assert told[0]["text"].startswith("step 1: ema.a has numbers that are not finite, and is not saved")
    assert told[1]["raised"] == "SaidElsewhere"
    assert list(run.checkpoints.folder.iterdir()) == []


@pytest.mark.parametrize("place", ["write_parts", "file_hash", "save_tensors"])
def test_a_process_that_is_killed_over_it_leaves_the_checkpoint_before(tmp_path, monkeypatch, place):
    run, calls = Run(tmp_path / "run"), []
    real = getattr(module, place)

    def die(*args):
        calls.append(place)
        # each process writes its part, and looks at it, once a step; the leader writes the file once a step
        if len(calls) == 2 and os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    monkeypatch.setattr(module, place, die)
    told = save(run, tmp_path / "ranks", [0.5, 0.4])
    assert told[0] is None
    monkeypatch.undo()
    assert run.checkpoints.newest().step == 1
    run.checkpoints.tidy()
    names = {path.name for path in run.checkpoints.folder.iterdir()}
    assert names == {"step-000001.safetensors", parts_of(run, 1).name}


def test_the_same_step_again_takes_the_place_of_the_old(tmp_path):
    run = Run(tmp_path / "run")
    save(run, tmp_path / "first", [0.5])
    first = parts_of(run, 1)
    save(run, tmp_path / "second", [0.4])
    assert parts_of(run, 1) != first
    assert not first.exists()
    assert json.loads(json.dumps(run.checkpoints.newest().facts))["validation"] == 0.4
