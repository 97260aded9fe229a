"""Runs that are killed ten times, as the benchmark does it, in a process that forks them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[1]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_training_that_is_killed_ten_times_ends_as_if_nothing_had_happened(tmp_path):
    kinds = ("SIGKILL at any moment", "SIGKILL at a file operation")
    words = ("--points", "5", "--kinds", *kinds, "--folder", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", *map(str, words)],
        cwd=CHECKOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    found = {row[0]: [int(cell) for cell in row[1:]] for row in rows if row[0] in kinds}
    for kind in kinds:
        points, survived, runs, differences = found[kind]
        assert (points, survived, differences) == (5, 5, 0)
        assert runs >= 1
