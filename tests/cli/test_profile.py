"""--profile: where a step's time goes, and nothing written."""

import re
import signal

import pytest

from .test_mistakes import refuses


def test_the_shares_are_the_whole_and_nothing_is_written(msdm, data, recipe, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    outcome = msdm("train", recipe, "--data", data, "--profile")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert sorted(tmp_path.rglob("*")) == before
    rows = dict(re.findall(r"^(\S.*?) +[\d.]+ +([\d.]+) %$", outcome.out, re.M))
    assert float(rows.pop("step")) == 100.0
    assert sum(map(float, rows.values())) == pytest.approx(100, abs=0.05 * len(rows) + 0.05)
    for name in ("waiting for data", "encoder: convolutions", "decoder: conditions prepared", "optimiser"):
        assert name in rows
    for line in (
        r"^read and augment +[\d.]+$",
        r"^morphology +[\d.]+$",
        r"^colour +[\d.]+$",
        r"^on cpu: [\d.]+ images/s, 2 images per step, \d+ loader processes, checkpointing off$",
        r"^peak memory: [\d.]+ [MG]iB$",
        r"^model FLOP utilisation: \d+%, ",
        r"^advice: .+$",
        r"^profile: nothing was written$",
    ):
        assert re.search(line, outcome.out, re.M), line


def test_what_it_does_not_go_with(msdm, data, recipe, tmp_path):
    words = ("train", recipe, "--data", data, "--profile", "--out", tmp_path / "run")
    refuses(msdm(*words, "--dry-run"), "--profile", "leave --dry-run out")
    refuses(msdm(*words, "--resume"), "--profile", "leave --resume out")


def test_ctrl_c_is_one_line(process, data, recipe):
    said = "import sys; from msdm_kit.plugins import profile; run = profile._run\n"
    said += "def loud(*a): print('profiling', flush=True); return run(*a)\n"
    said += "profile._run = loud; profile.TIMED_STEPS = (10**4, 10**4)\n"
    said += "from msdm_kit.cli.main import main; main()"
    started = process("train", recipe, "--data", data, "--profile", "--set", "train.workers=1", python=said)
    assert started.stdout.readline() == "profiling\n"
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert (started.returncode, out, err) == (130, "", "stopped\n")
