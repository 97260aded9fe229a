"""Every reader on changed files: a message of one line may come of it, and no more."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.quiet import quiet_libraries

CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[1]))


def _package():
    """`benchmarks` from the checkout, whose root is not on the path: `core` there would hide others."""
    if "benchmarks" not in sys.modules:
        folder = CHECKOUT / "benchmarks"
        spec = importlib.util.spec_from_file_location(
            "benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("benchmarks.fuzz.targets"), importlib.import_module(
        "benchmarks.fuzz.watch"
    )


targets, watch = _package()
TARGETS = {target.name: target for target in targets.TARGETS}


@pytest.fixture(autouse=True)
def quiet():
    torch.set_num_threads(1)
    quiet_libraries()


def examples(target):
    return max(4, min(25, target.inputs // 1000))


@pytest.mark.parametrize("name", TARGETS)
def test_reader(name, tmp_path):
    target = TARGETS[name]
    seeds = target.seeds()
    watched = watch.Watch(target.read, tmp_path / "files", target.memory, limited=False)
    watched.warm_up(seeds[:1])

    @settings(max_examples=examples(target), deadline=None, derandomize=True, database=None)
    @given(number=st.integers(0, 2**32 - 1), index=st.integers(0, len(seeds) - 1))
    def read(number, index):
        finding = watched.run(target.mutate(seeds[index], Random(number)))
        assert finding is None, finding

    read()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_what_the_reader_takes(name, tmp_path):
    """At least one whole file of a target is read to its end, or the target would look at nothing."""
    target = TARGETS[name]
    outcomes = []
    for k, seed in enumerate(target.seeds()):
        (tmp_path / str(k)).mkdir()
        try:
            target.read(tmp_path / str(k), seed)
            outcomes.append("")
            break
        except MsdmError as error:
            outcomes.append(str(error))
    assert "" in outcomes, outcomes


def outside(folder, data):
    (folder.parent / "outside.txt").write_text("x")


def link(folder, data):
    (folder / "link").symlink_to(folder.parent)
    (folder / "link/outside.txt").write_text("x")


def slow(folder, data):
    end = time.process_time() + 5
    while time.process_time() < end:
        pass


FAULTS = {
    "KeyError at": lambda folder, data: {}["x"],
    "reaches out: open of .../outside.txt": outside,
    "reaches out: os.symlink": link,
    "reaches out: subprocess.Popen": lambda folder, data: subprocess.run(["true"], check=True),
    "reaches out: os.remove": lambda folder, data: (folder.parent / "there.txt").unlink(),
    "prints": lambda folder, data: os.write(2, b"TIFFReadDirectory: no\n"),
    "too slow": slow,
}


@pytest.mark.parametrize("what", FAULTS)
def test_the_watch_finds(what, tmp_path, monkeypatch, capfd):
    (tmp_path / "there.txt").write_text("x")
    monkeypatch.setattr(watch, "SECONDS", 0.2)
    found = watch.Watch(FAULTS[what], tmp_path / "files", 2**20, limited=False).run(b"")
    assert found is not None
    assert found.what.startswith(what)


def test_the_watch_lets_pass(tmp_path):
    def refuse(folder, data):
        (folder / "a/b").mkdir(parents=True)
        (folder / "a/b/x").write_bytes(data)
        raise MsdmError("no")

    assert watch.Watch(refuse, tmp_path / "files", 2**20, limited=False).run(b"abc") is None


@pytest.mark.parametrize("name", ["manifest", "COCO", "recipe"])
def test_changes_are_drawn_from_the_seed_alone_and_change(name):
    target = TARGETS[name]
    seed = target.seeds()[0]
    made = [target.mutate(seed, Random(k)) for k in range(30)]
    assert made == [target.mutate(seed, Random(k)) for k in range(30)]
    assert sum(data != seed for data in made) > 20
