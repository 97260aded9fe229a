"""The folder of checkpoints: which are kept, which is gone on from, and what a full disc leaves."""

import os
import shutil
import subprocess

import pytest
import torch

from msdm_kit.core.checkpoint import DamagedFile, load_facts, load_tensors, save_tensors
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.recipe import TrainSection
from msdm_kit.plugins.checkpoints import Checkpoints, State
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.run import Run


def state(step: int, loss: float | None = None, size: int = 8):
    tensors = {"weights.a": torch.full((size,), float(step)), "ema.a": torch.full((size,), step / 2)}
    tensors |= {"weights.frozen": torch.ones(2), "optimizer.step.a": torch.tensor(float(step))}
    return tensors, {"step": step, "ema_updates": step, "due": [], "validation": loss, "recipe": {}}


def save(run: Run, step: int, loss: float | None = None, *, last: int = 2, best: int = 1, size: int = 8):
    section = TrainSection(steps=1, keep_last=last, keep_best=best)
    run.save(*state(step, loss, size), section)


def flip(path, place: float = 0.9):
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("last", "best", "kept"),
    [(1, 0, [6]), (2, 0, [5, 6]), (2, 1, [2, 5, 6]), (1, 3, [2, 3, 4, 6]), (9, 9, [1, 2, 3, 4, 5, 6])],
)
def test_the_last_and_the_best_are_kept(tmp_path, last, best, kept):
    run = Run(tmp_path)
    for step, loss in enumerate([None, 0.1, 0.2, 0.2, 0.3, float("nan")], 1):
        save(run, step, loss, last=last, best=best)
    assert run.checkpoints.steps == kept
    assert load_tensors(run.weights)[0]["a"].tolist() == [3.0] * 8
    if best:
        tensors, facts = load_tensors(run.best_weights)
        assert tensors["a"].tolist() == [1.0] * 8
        assert tensors["frozen"].tolist() == [1.0] * 2
        assert (facts["step"], facts["validation"]) == (2, 0.1)
        assert "ema_updates" not in facts
    else:
        assert not run.best_weights.exists()


def test_what_is_older_goes_only_when_the_new_one_is_there(tmp_path, monkeypatch):
    run = Run(tmp_path)
    save(run, 1, last=1)
    seen, replace = [], os.replace

    def spy(source, target):
        replace(source, target)
        seen.append((os.path.basename(target), run.checkpoints.steps))

    monkeypatch.setattr(os, "replace", spy)
    save(run, 2, last=1)
    assert seen == [("step-000002.safetensors", [1, 2]), ("weights.safetensors", [1, 2])]
    assert run.checkpoints.steps == [2]


@pytest.mark.parametrize("place", [0.01, 0.3, 0.6, 0.999])
def test_one_flipped_bit_is_found_and_the_checkpoint_before_is_used(tmp_path, place):
    run = Run(tmp_path)
    for step in (1, 2, 3):
        save(run, step, last=3)
    length = run.checkpoints.path(3).stat().st_size
    flip(run.checkpoints.path(3), place)
    assert run.checkpoints.path(3).stat().st_size == length
    found = run.checkpoints.newest()
    assert found.step == 2
    (warning,) = found.warnings
    assert "step-000003.safetensors" in warning
    assert warning.endswith("going on from step 2, the newest before it")
    assert "\n" not in warning
    save(run, 4)  # as if step 4 had come again: what is damaged does not count among the last for ever
    save(run, 5)
    assert run.checkpoints.steps == [4, 5]


@pytest.mark.parametrize("harm", ["cut", "empty", "other", "no digest"])
def test_other_damage(tmp_path, harm):
    folder = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        folder.save(*state(step))
    path = folder.path(2)
    if harm == "no digest":
        tensors, facts = state(2)
        save_tensors(tmp_path / "plain", tensors, facts)
        from safetensors.torch import save_file

        save_file(tensors, path, metadata={"msdm_kit": '{"format": 1, "step": 2}'})
    else:
        data = path.read_bytes()
        path.write_bytes({"cut": data[:-1], "empty": b"", "other": b"\0" * 64}[harm])
    with pytest.raises(DamagedFile):
        folder.load(2)
    assert folder.newest().step == 1


def test_all_damaged_is_one_line(tmp_path):
    folder = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        folder.save(*state(step))
        flip(folder.path(step))
    with pytest.raises(MsdmError, match=r"none of the 2 checkpoints in .* is whole: .*step-000002") as caught:
        folder.newest()
    assert "\n" not in str(caught.value)
    assert Checkpoints(tmp_path / "none").newest() is None


def test_steps_of_a_future_that_was_damaged_go(tmp_path):
    run = Run(tmp_path)
    for step in (2, 4, 6):
        save(run, step, last=9)
    flip(run.checkpoints.path(6))
    save(run, 5, last=9)
    assert run.checkpoints.steps == [2, 4, 5]


def test_best_weights_are_put_back_from_their_checkpoint(tmp_path):
    run = Run(tmp_path)
    save(run, 2, 0.1)
    save(run, 4, 0.2)
    section = TrainSection(steps=1)
    run.best_weights.unlink()
    run.write_weights(run.checkpoints.newest(), section)
    assert load_facts(run.best_weights)["step"] == 2
    assert load_tensors(run.best_weights)[0]["a"].tolist() == [1.0] * 8
    assert load_facts(run.weights)["step"] == 4
    flip(run.best_weights)
    run.write_weights(run.checkpoints.newest(), section, doubt=True)
    assert load_tensors(run.best_weights)[0]["a"].tolist() == [1.0] * 8


@pytest.mark.parametrize("name", ["weights.a", "ema.a", "optimizer.step.a"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_saved(tmp_path, name, value):
    run = Run(tmp_path)
    save(run, 1)
    tensors, facts = state(2)
    tensors[name].fill_(value)
    with pytest.raises(MsdmError, match=f"step 2: {name} has numbers that are not finite"):
        run.save(tensors, facts, TrainSection(steps=1, keep_last=1))
    assert run.checkpoints.steps == [1]
    assert load_facts(run.weights)["step"] == 1


def test_averaged():
    found = State(*state(4))
    assert {n: t.tolist() for n, t in found.averaged().items()} == {"a": [2.0] * 8, "frozen": [1.0, 1.0]}
    assert found.whole() is found.tensors


def test_names_of_many_steps_and_of_other_files(tmp_path):
    folder = Checkpoints(tmp_path)
    for name in (
        "step-1234567.safetensors",
        "step-000010.safetensors",
        "step-9.safetensors",
        "a.txt",
        ".x.tmp",
    ):
        (tmp_path / name).touch()
    assert folder.steps == [10, 1234567]
    assert folder.path(1234567).exists()


def check_full(run: Run) -> None:
    """One line, nothing half-written, and all that was saved before is whole."""
    with pytest.raises(MsdmError, match="cannot write") as caught:
        save(run, 3, last=9, size=200_000)
    assert "\n" not in str(caught.value)
    assert run.checkpoints.newest().step == 2
    assert load_facts(run.weights)["step"] == 2
    assert not list(run.folder.rglob("*.tmp"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount")
def test_a_full_disc(tmp_path):
    folder = tmp_path / "disc"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        run = Run(folder / "run")
        save(run, 1)
        save(run, 2)
        check_full(run)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(MsdmError, match=r"cannot write .*[Rr]ead-only"):
            save(run, 3)
        with pytest.raises(MsdmError, match=r"cannot write .*[Rr]ead-only"):
            run.log(step=3, loss=1.0)
        assert run.checkpoints.newest().step == 2
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_limit_of_the_size_of_files(tmp_path):
    """What ``ulimit -f`` sets."""
    resource = pytest.importorskip("resource")
    run = Run(tmp_path / "run")
    save(run, 1)
    save(run, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        check_full(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    save(run, 3, size=200_000)
    assert run.checkpoints.steps == [2, 3]


def test_weights_of_a_best_checkpoint_that_is_damaged_are_those_of_the_next(tmp_path):
    run = Run(tmp_path)
    for step, loss in ((1, 0.2), (2, 0.3), (3, 0.1)):
        save(run, step, loss, last=3)
    run.best_weights.unlink()  # the process was killed before it wrote them
    flip(run.checkpoints.path(3))
    found = run.checkpoints.newest()
    assert found.step == 2
    run.write_weights(found, TrainSection(steps=1))
    assert load_facts(run.best_weights)["step"] == 1
    flip(run.checkpoints.path(1))
    run.best_weights.unlink()
    run.write_weights(found, TrainSection(steps=1))
    assert load_facts(run.best_weights)["step"] == 2


def test_a_folder_is_trained_into_by_one_process_at_a_time(tmp_path):
    run = Run(tmp_path / "run")
    with run.held([]), pytest.raises(MsdmError, match="another process is training into"), run.held([]):
        pass
    save(run, 1)
    with pytest.raises(MsdmError, match="go on with --resume"), run.held([]):
        pass
    with run.held([1]):
        pass


def test_previews_of_later_steps_go_by_number(tmp_path):
    run = Run(tmp_path)
    run.previews.mkdir()
    for step in (999_999, 1_000_000, 1_000_001):
        run.preview(step).touch()
    run.start(load_recipe("quickstart"), 1_000_000)
    assert not run.preview(1_000_001).exists()
    assert run.preview(999_999).exists()
    assert run.preview(1_000_000).exists()
