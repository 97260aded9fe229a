"""Sampling jobs that are killed, and those of several processes: the same bytes in the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ..sampled import tree

HERE = Path(__file__).resolve().parents[2]
BEGIN = """\
import os, signal, sys
from pathlib import Path
tests, root, out, bound = sys.argv[1:5]
sys.path.insert(0, tests)
from tests import sampled
sys.path.pop(0)
"""

# every job in a process of its own, forked from one that has imported all, and computed in one thread
KILLS = (
    BEGIN
    + """
import json
from msdm_kit.core import files

def killed_at(number):
    done = 0
    def count(data=b"", handle=None):
        nonlocal done
        done += 1
        if done == number:
            if handle is not None:
                handle.write(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
    def before(name, real):
        def counted(*arguments, **options):
            count()
            return real(*arguments, **options)
        setattr(os, name, counted)
    for name in ("fsync", "replace", "unlink", "mkdir"):
        before(name, getattr(os, name))
    append = files.AppendedFile.append
    def half(self, data):
        with open(self.path, "ab") as handle:
            count(data, handle)
        append(self, data)
    files.AppendedFile.append = half

def run(number):
    child = os.fork()
    if not child:
        code = 1
        try:
            killed_at(number)
            sampled.job(Path(root), Path(out), float(bound))
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]

sampled.job(Path(root), Path(out + ".first"), float(bound))
ends = []
while len(ends) < 20 and (not ends or ends[-1] == signal.SIGKILL):
    ends.append(run(12 + 5 * len(ends)))
print(json.dumps(ends))
"""
)

# the second process kills itself when it has written a pair, the first time
RANKS = (
    BEGIN
    + """
from msdm_kit.cli.main import main
from msdm_kit.plugins.sampling.pair_folder import PairFolder
add, flag = PairFolder.add, Path(out + ".flag")

def once(self, *arguments):
    add(self, *arguments)
    if os.environ["RANK"] == "1" and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)

PairFolder.add = once
words = "--n 4 --split all --seed 3 --tries 2 --recombine appearance --device cpu --threads 1".split()
sys.argv = ["msdm-kit", "sample", root + "/run", "--data", root + "/data", "--out", out, *words]
sys.argv += ["--min-adherence", bound]
main()
"""
)


def started(script, *words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, script), *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_a_job_that_is_killed_again_and_again_ends_in_the_same_bytes(root, bound, whole, tmp_path):
    done = started(["-c", KILLS], HERE, root, tmp_path / "out", bound)
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    assert ends[-1] == 0
    assert len(ends) > 8, "it was killed so often before"
    assert tree(tmp_path / "out") == tree(whole)


def test_two_processes_of_which_one_dies_once_end_in_the_same_bytes(root, bound, whole, tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    out = tmp_path / "out"
    done = started([*torchrun, script], HERE, root, out, repr(bound))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.flag").exists()
    assert tree(out) == tree(whole)
    assert done.stdout.count("loading") == 2, "the leader alone tells, at each start"
    assert "in 2 processes" in done.stdout
    assert done.stdout.count(f"report: {out / 'report.html'}") == 1
