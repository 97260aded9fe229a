"""Packages of third parties: installed into a folder of their own, and used as a user uses them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .toy import toy_folder

TOY = ["backbone.channels=8", "backbone.multipliers=[1,1]", "backbone.groups=4", "data.crop=32"]
TOY += ["injectors.0.hidden=8", "injectors.1.heads=2", "train.steps=2", "train.batch=2", "sample.steps=2"]
"""What makes the quickstart, and what extends it, small."""


def install(package: Path, site: Path) -> Path:
    """Install a package, not its dependencies, into the folder `site`, from a copy of its sources.

    Returns
    -------
    Path
        The copy.
    """
    copy = site.parent / f"{package.name}-sources"
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(package, copy, ignore=ignored)
    offline = [
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--no-compile",
        "--disable-pip-version-check",
    ]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", str(site), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=site.parent)
    assert done.returncode == 0, done.stderr
    return copy


def call(site: Path, *words: object, at: Path) -> str:
    """Run a Python module in the folder `at` with the packages of `site`; what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=at, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


_COMMANDS = """
import json, os, sys
from msdm_kit.cli.main import run
os.sync, os.fsync = lambda: None, lambda handle: None  # nobody waits for the disc here
for words in json.loads(sys.argv[1]):
    if code := run(words):
        sys.exit(code)
"""


def msdm_kit(site: Path, *commands: list[object], at: Path) -> str:
    """Run commands one after the other, in one process: importing takes longer than they do."""
    return call(site, "-c", _COMMANDS, json.dumps([[str(w) for w in words] for words in commands]), at=at)


def train_and_sample(site: Path, recipe: object, settings: Sequence[str], at: Path) -> Path:
    """Train two steps on a toy data set and paint one field, through the command; the painted set."""
    data = toy_folder(at / "data", ["a", "b", "c"], ["train", "train", "val"])
    small = [word for text in (*TOY, *settings) for word in ("--set", text)]
    run, out = at / "run", at / "out"
    train = ["train", recipe, "--data", data, "--out", run, *small]
    msdm_kit(site, train, ["sample", run, "--data", data, "--n", 1, "--out", out], at=at)
    return out


def run_tests(site: Path, package: Path) -> str:
    """Run a package's own tests, as they are written."""
    return call(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", at=package)
