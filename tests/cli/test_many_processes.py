"""The commands that several processes share: one report, one set of lines, and refusals."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from msdm_kit.cli.main import run

from ..ranks import in_ranks
from .conftest import write_field


@pytest.fixture
def folders(tmp_path):
    """Fields, and the same with other images and with masks that lack an instance."""
    for name, seed in (("real", 0), ("other", 20)):
        folder = tmp_path / name
        lines = ["id,assay"]
        for i in range(7):
            write_field(folder, f"f{i}", size=(40, 36), seed=seed + i)
            lines.append(f"f{i},{'ab'[i % 2]}")
            if seed and i > 3:
                path = folder / "nuclei" / f"f{i}.png"
                labels = np.asarray(Image.open(path)).copy()
                labels[labels == 2] = 0
                Image.fromarray(labels).save(path)
        (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "real", tmp_path / "other"


def quiet(rank, words, log):
    """Run a command in a process of a job, with its lines in files."""
    with (log / f"out-{rank}").open("w") as out, (log / f"err-{rank}").open("w") as err:
        sys.stdout, sys.stderr = out, err
        return run([str(word) for word in words])


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (("evaluate", "segmentation", 1, 0), ("fields.csv", "summary.json")),
        (
            ("evaluate", "fidelity", 0, 1, "--group", "assay", "--no-cache", "--projection", "pca"),
            ("fidelity.json", "fields.csv", "matrix.csv", "metrics.csv"),
        ),
    ],
)
def test_an_evaluation_is_that_of_one_process(msdm, folders, tmp_path, words, files):
    words = [folders[word] if isinstance(word, int) else word for word in words]
    outcome = msdm(*words, "--out", tmp_path / "alone")
    assert outcome.code == 0, outcome.err
    shared = [*words, "--out", tmp_path / "shared"]
    assert in_ranks(2, lambda rank: quiet(rank, shared, tmp_path), tmp_path / "ranks") == [0, 0]
    for name in files:
        ours, theirs = ((tmp_path / run / name).read_bytes() for run in ("shared", "alone"))
        assert ours == theirs, name
    said = [(tmp_path / f"out-{rank}").read_text() for rank in range(2)]
    assert said == [outcome.out.replace("alone", "shared"), ""]


def test_a_command_that_is_not_shared_is_refused(folders, tmp_path):
    words = ["data", "check", folders[0]]
    assert in_ranks(2, lambda rank: quiet(rank, words, tmp_path), tmp_path / "ranks") == [2, 2]
    said = [(tmp_path / f"err-{rank}").read_text() for rank in range(2)]
    assert said == [
        "error: msdm-kit data works in one process; start it without torchrun, which is for train, sample, "
        "evaluate\n",
        "",
    ]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["train", "no-such-recipe"], "no recipe 'no-such-recipe'"),
        (["train", "quickstart", "--nonsense"], "No such option: --nonsense"),
        (["train", "quickstart", "--profile"], "--profile looks at one process; start it without torchrun"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, error):
    assert in_ranks(2, lambda rank: quiet(rank, words, tmp_path), tmp_path / "ranks") == [2, 2]
    said = [(tmp_path / f"err-{rank}").read_text() for rank in range(2)]
    assert error in said[0]
    assert said[0].count("\n") == 1
    assert said[1] == ""


DYING = """\
import os, signal
from msdm_kit.core.optimise import Optimiser
step = Optimiser.step
def dying(self, batches):
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    if self.here.rank == 1 and self.done == 3 and attempt == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    if self.here.leads and self.done == 5 and attempt == "1":
        os.kill(os.getppid(), signal.SIGTERM)
        signal.sigtimedwait([], 1)
    return step(self, batches)
Optimiser.step = dying
from msdm_kit.cli.main import main
main()
"""


def test_torchrun_starts_again_after_a_death_and_passes_on_a_call_to_stop(msdm, data, recipe, tmp_path):
    """One process is killed, the job goes on from the checkpoint, is told to stop, and is resumed alone."""
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    words = ["train", recipe, "--data", data, "--set", "train.steps=8", "--device", "cpu"]
    words += ["--set", "train.checkpointing=false", "--set", "train.preview_every=100"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    done = subprocess.run(
        [*torchrun, script, *words, "--out", tmp_path / "run"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    stopped = steps[-1]["step"]
    assert stopped in (6, 7), done.stderr
    assert "another process of the job has ended before its time" in done.stderr
    assert "8 steps, 3 of them done, on cpu and 1 more" in done.stdout
    assert done.stdout.count(f"stopped after step {stopped}; go on with: torchrun --nproc-per-node 2 ") == 1
    assert msdm(*words, "--out", tmp_path / "run", "--resume").code == 0
    assert msdm(*words, "--out", tmp_path / "alone").code == 0
    ours, theirs = (
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("run", "alone")
    )
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        for key in row.keys() - {"seconds"}:
            assert row[key] == pytest.approx(other[key], rel=1e-3), key
