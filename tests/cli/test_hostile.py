"""A plugin that breaks its promises gets one line that names it, and the run's files stay whole."""

import json
import re
import sys

import pytest
import yaml

from msdm_kit.core import guard
from msdm_kit.core.checkpoint import load_tensors
from msdm_kit.core.optimise import Optimiser
from msdm_kit.plugins import host

from ..hostile import hostile_package
from .test_mistakes import refuses

CONDITIONER = "hostile_parts.Hostile"
INJECTOR = "injector at site 'embedding' (hostile_parts.HostileFilm)"
RECIPE = {
    "name": "hostile",
    "data": {"masks": ["nucleus"], "crop": 16},
    "conditioners": {"area": {"type": "hostile", "drop": 0.9}},
    "injectors": [{"type": "hostile_film", "from": ["area"], "at": ["embedding"]}],
    "backbone": {
        "type": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "attention_strides": [],
        "head_channels": 8, "groups": 4,
    },
    "train": {
        "steps": 3, "batch": 2, "lr": 1e-3, "precision": "fp32", "validate_every": 9, "preview_every": 3,
        "save_every": 1, "workers": 0, "checkpointing": False,
    },
    "sample": {"steps": 2},
}  # fmt: skip


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    """The package `hostile`, well behaved until ``HOSTILE`` tells it otherwise."""
    monkeypatch.syspath_prepend(str(hostile_package(tmp_path / "site")))
    monkeypatch.delenv("HOSTILE", raising=False)
    host.get_host.cache_clear()
    yield
    host.get_host.cache_clear()
    for name in ("hostile_hooks", "hostile_parts"):
        sys.modules.pop(name, None)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "hostile.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


FAULTS = {
    "observe raises": "(hostile_parts.Hostile) fails on sample 'f",
    "observe gives nothing": "observes NoneType on sample 'f",
    "observe gives numbers": "observes a dict with float on sample 'f",
    "observe on device": "observes 'area' on meta; observations stay on the CPU",
    "observe nan": "observes 'area' with numbers that are not finite on sample 'f",
    "collate raises": "fails to collate a batch: TypeError: no",
    "encode raises": "fails to encode: ZeroDivisionError: two lines (at ",
    "encode gives a tensor": "encodes Tensor, and a condition is a Signal",
    "encode width": "encodes a shape of (2, 3), and its spec is vector (B, D) with 4 D",
    "encode map": "encodes a shape of (2, 4, 1, 1), and its spec is vector",
    "encode rows": "encodes 4 rows for a batch of 2",
    "encode device": "encodes on meta, and what it was given is on cpu",
    "encode integers": "encodes torch.int64, and a condition is floating point",
    "encode nan": "encodes numbers that are not finite, on fields f",
    "null raises": "fails to give its absent condition: IndexError: null",
    "null rows": "gives as its absent condition 3 rows for a batch of 2",
    "prepare raises": "fails: RuntimeError: prepare",
    "prepare gives a list": "prepares list; `prepare` returns a dict of tensors",
    "inject raises": "fails: ValueError: inject",
    "inject shape": "makes (2, 2) on cpu of features (2, ",
}


MIDDLE = ("observe raises", "encode rows", "encode nan", "null raises", "null rows", "inject raises")
"""What a whole run is trained for; the rest shows as well where a run is painted from."""


@pytest.mark.parametrize("fault", MIDDLE)
def test_fault_in_the_middle_of_a_run_is_named_and_the_run_goes_on_when_it_is_mended(
    msdm, recipe, data, tmp_path, monkeypatch, fault
):
    out, step = tmp_path / "run", Optimiser.step

    def break_after_one(self, batches):
        report = step(self, batches)
        if self.done == 1:
            monkeypatch.setenv("HOSTILE", fault)
        return report

    monkeypatch.setattr(Optimiser, "step", break_after_one)
    outcome = msdm("train", recipe, "--data", data, "--out", out, "--device", "cpu")
    who = INJECTOR if fault.startswith(("prepare", "inject")) else f"conditioner 'area' ({CONDITIONER})"
    refuses(outcome, who, FAULTS[fault])

    monkeypatch.setattr(Optimiser, "step", step)
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1]
    for name in ("weights", "checkpoints/step-000001"):
        assert load_tensors(out / f"{name}.safetensors")[1]["step"] == 1
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoints", "metrics.jsonl", "recipe.yaml", "weights.safetensors",
    ]  # fmt: skip
    monkeypatch.delenv("HOSTILE")
    again = msdm("train", recipe, "--data", data, "--out", out, "--device", "cpu", "--resume")
    assert again.code == 0, again.err
    assert load_tensors(out / "weights.safetensors")[1]["step"] == 3


def test_fault_in_a_loader_process_is_named(msdm, recipe, data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOSTILE", "observe nan in a worker")
    words = ("--set", "train.workers=1", "--device", "cpu")
    outcome = msdm("train", recipe, "--data", data, "--out", tmp_path / "run", *words)
    refuses(outcome, f"conditioner 'area' ({CONDITIONER}) observes 'area' with numbers that are not finite")


def test_condition_that_hangs_is_stopped_and_named(msdm, recipe, data, tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "OBSERVE_SECONDS", 0.2)
    monkeypatch.setenv("HOSTILE", "observe hangs")
    outcome = msdm("train", recipe, "--data", data, "--out", tmp_path / "run", "--device", "cpu")
    refuses(outcome, f"conditioner 'area' ({CONDITIONER}) has looked at sample 'f", "for more than 0.2 s")
    assert not (tmp_path / "run").exists()


def test_fault_while_painting_is_named(msdm, recipe, data, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert msdm("train", recipe, "--data", data, "--out", out, "--device", "cpu").code == 0
    for fault, said in FAULTS.items():
        if fault.startswith("null"):
            continue  # without guidance no absent condition is asked for
        monkeypatch.setenv("HOSTILE", fault)
        words = ("--n", "2", "--out", tmp_path / "painted", "--device", "cpu")
        outcome = msdm("sample", out, "--data", data, *words)
        who = INJECTOR if fault.startswith(("prepare", "inject")) else f"conditioner 'area' ({CONDITIONER})"
        refuses(outcome, who, said.replace("(2, ", "(1, ").replace("4 rows for a batch of 2", "2 rows for a"))
        assert not list((tmp_path / "painted").glob("images/*")), fault


def test_run_without_its_package_says_what_to_install(msdm, recipe, data, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert msdm("train", recipe, "--data", data, "--out", out, "--device", "cpu").code == 0
    entries = host.metadata.entry_points
    monkeypatch.setattr(host.metadata, "entry_points", lambda *, group: [])
    host.get_host.cache_clear()
    for words in (
        ("sample", out, "--data", data, "--n", "1", "--out", tmp_path / "painted"),
        ("train", recipe, "--data", data, "--out", out, "--resume"),
    ):
        refuses(msdm(*words), "conditioner 'hostile'")
    refuses(
        msdm(*words[:0], "sample", out, "--n", "1", "--out", tmp_path / "p"), 'pip install "hostile>=2.3"'
    )
    monkeypatch.setattr(host.metadata, "entry_points", entries)


def test_broken_logger_is_left_out_and_the_run_goes_on(msdm, recipe, data, tmp_path, monkeypatch):
    logged = ("--set", "train.loggers=[{type: hostile_log}]", "--device", "cpu")
    good, bad = tmp_path / "good", tmp_path / "bad"
    assert msdm("train", recipe, "--data", data, "--out", good, *logged).code == 0
    lines = (good / "loggers" / "hostile_log" / "lines.txt").read_text().splitlines()
    assert lines[0] == "1 ['gradient_norm', 'images', 'loss', 'lr', 'seconds']"
    assert lines[3].startswith("3 ['validation/t=0.125', ")
    assert lines[4] == "3 [('preview', 3, 'uint8')]"

    monkeypatch.setenv("HOSTILE", "scalars raises")
    outcome = msdm("train", recipe, "--data", data, "--out", bad, *logged)
    assert outcome.code == 0
    warnings = [line for line in outcome.out.splitlines() if line.startswith("warning: ")]
    (warning,) = warnings
    assert (
        "logger 'hostile_log' fails and is left out from here: ConnectionError: server went away;" in warning
    )
    assert len((bad / "metrics.jsonl").read_text().splitlines()) == 4

    monkeypatch.setenv("HOSTILE", "start raises")
    outcome = msdm("train", recipe, "--data", data, "--out", tmp_path / "none", *logged)
    refuses(outcome, "train.loggers.0: logger 'hostile_log' does not start: OSError: no server")
    assert not (tmp_path / "none").exists()
    outcome = msdm(
        "train", recipe, "--data", data, "--out", tmp_path / "none", "--set", "train.loggers=[{type: x}]"
    )
    refuses(outcome, "train.loggers.0.type: no logger 'x'; legal: hostile_log, tensorboard")


def test_commands_of_plugins_stand_after_ours_and_break_nothing(msdm):
    page = msdm("--help")
    assert page.code == 0
    listed = page.out.partition("Commands:")[2]
    assert listed.index("evaluate") < listed.index("greet") < listed.index("number")
    assert "Say hello." in listed
    assert msdm("greet", "Ada", "--loud").out == "hello Ada!\n"
    assert msdm("group", "two", "Ada").out == "hello Ada\n"
    assert "Greet somebody by name." in msdm("greet", "--help").out
    assert re.findall(r"\b(one|two)\s", msdm("group", "--help").out) == ["one", "two"]
    refuses(msdm("greet"), "Missing argument 'name'; see msdm-kit greet --help")
    refuses(msdm("greet", "nobody"), "command 'greet' of hostile 2.3 fails: LookupError: no such person")
    refuses(msdm("gone"), "command 'gone' of hostile 2.3 does not load: AttributeError")
    refuses(msdm("number"), "command 'number' of hostile 2.3 fails: TypeError: loads int; give a typer.Typer")
    assert "Train a recipe on a data set." in msdm("train", "--help").out  # ours, not theirs
    refuses(msdm("gret"), "No such command 'gret'")


def test_plugins_and_packages_are_left_out_by_name(msdm, recipe, monkeypatch):
    rows = [line.split() for line in msdm("plugins").out.splitlines()]
    assert ["conditioner", "hostile", "Breaks", "its", "promises.", "hostile", "2.3", "1", "ok"] in rows
    assert any(row[:2] == ["command", "train"] and "taken" in row for row in rows)
    for words in (("--no-plugin", "hostile"), ("--no-plugin", "film", "--no-plugin", "hostile")):
        rows = [line.split() for line in msdm(*words, "plugins").out.splitlines()]
        assert [row[-1] for row in rows if row[1] == "hostile"] == ["blocked"]
    refuses(msdm("--no-plugin", "hostile", "greet", "Ada"), "No such command 'greet'")
    outcome = msdm("--no-plugin", "hostile_film", "train", recipe, "--out", "x", "--dry-run")
    refuses(outcome, "injector 'hostile_film' is blocked; take it off MSDM_KIT_NO_PLUGIN or --no-plugin")
    refuses(msdm("--no-plugin", "hostil", "plugins"), "no plugin or package 'hostil' to leave out")
    assert msdm("greet", "Ada").out == "hello Ada\n"  # it is there again


def test_package_that_does_not_import_can_be_blocked(msdm, tmp_path, monkeypatch):
    (tmp_path / "site" / "hostile_hooks.py").write_text("raise SystemExit('no')\n")
    host.get_host.cache_clear()
    lines = msdm("plugins").out.splitlines()
    assert "problem: does not import: SystemExit: no" in lines[-1]
    assert msdm("--help").code == 0
    lines = msdm("--no-plugin", "hostile", "plugins").out.splitlines()
    assert lines[-1].split()[-1] == "blocked"


def test_plugins_show_says_all_about_one(msdm):
    shown = msdm("plugins", "show", "hostile")
    assert shown.code == 0
    assert shown.out.splitlines() == [
        "conditioner hostile: Breaks its promises.",
        "package: hostile 2.3, plugin API 1",
        "reads: morphology",
        "emits: vector, 4 wide at the default settings",
        "injectors: film, hostile_film",
        "class: hostile_parts.Hostile",
        "settings: none",
    ]
    shown = msdm("plugins", "show", "injector", "spade").out.splitlines()
    assert "sites: norm" in shown
    said = "hidden 128 integer, at least 1, at most 65536 Width of the hidden convolution."
    assert " ".join(shown[-1].split()) == said
    refuses(msdm("plugins", "show", "cellpose"), "'cellpose' is of several kinds: importer, exporter")
    refuses(msdm("plugins", "shw"), "No such command 'shw'")
