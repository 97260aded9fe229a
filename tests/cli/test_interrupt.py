"""Ctrl-C while training: saved, status 130, and going on gives what no interruption would have given."""

import re
import shlex
import signal

import pytest
import torch
from safetensors.torch import load_file

SLOW = """\
import time
from msdm_kit.core import optimise
step = optimise.Optimiser.step
def slow(self, batches):
    time.sleep(0.2)
    return step(self, batches)
optimise.Optimiser.step = slow
from msdm_kit.cli.main import main
main()
"""


@pytest.mark.usefixtures("threads")
def test_ctrl_c_and_resume_is_as_if_nothing_had_happened(msdm, process, data, recipe, tmp_path):
    settings = ("--set", "train.steps=12", "--set", "train.validate_every=1000", "--threads", "1")
    settings += ("--set", "train.preview_every=1000", "--set", "train.save_every=1000")
    words = ("train", recipe, "--data", data, *settings)
    whole = tmp_path / "whole"
    cut = tmp_path / "cut"
    started = process(*words, "--out", cut, python=SLOW)
    assert msdm(*words, "--out", whole).code == 0
    for line in started.stdout:
        if line.startswith("step "):  # that of the first step comes at once
            started.send_signal(signal.SIGINT)
            break
    out, err = started.communicate(timeout=120)
    assert (started.returncode, err) == (130, "")
    said = re.search(r"stopped after step (\d+); go on with: (msdm-kit train .* --resume)\n", out)
    assert said, out
    assert 1 <= int(said[1]) < 12
    assert (cut / f"checkpoints/step-{int(said[1]):06d}.safetensors").exists()

    again = shlex.split(said[2])
    outcome = msdm(*again[1:])
    assert outcome.code == 0, outcome.err
    assert f"12 steps, {said[1]} of them done" in outcome.out
    for name in ("weights", "checkpoints/step-000012"):
        a, b = (load_file(run / f"{name}.safetensors") for run in (whole, cut))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a), name


def test_ctrl_c_in_any_command_is_one_line(msdm, monkeypatch):
    from msdm_kit.plugins import host

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(host, "get_host", interrupted)
    outcome = msdm("plugins")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "stopped\n")


ENDED = """\
import os, signal, time
from msdm_kit.cli.main import main
from msdm_kit.plugins import host
def ended():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
host.get_host = ended
main()
"""


def test_what_ends_a_process_is_as_ctrl_c(process):
    started = process("plugins", python=ENDED)
    assert (*started.communicate(timeout=60), started.returncode) == ("", "stopped\n", 130)


def test_a_closed_pipe_is_quiet(process):
    started = process("recipes", "msdm")
    started.stdout.close()
    assert started.stderr.read() == ""
    started.wait(timeout=60)
