"""Packages as their users have them: installed by pip into environments of their own."""

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[1]))
TOY = ["backbone.channels=8", "backbone.multipliers=[1,1]", "backbone.groups=4", "data.crop=32"]
TOY += ["injectors.0.hidden=8", "injectors.1.heads=2", "train.steps=2", "train.batch=2", "sample.steps=2"]
"""What makes the quickstart, and what extends it, small."""

TOOLS = ("pytest", "setuptools")
"""What an environment has beside what msdm_kit requires: a package is built and tested in it."""

_SCRIPTS = {
    # what an environment borrows has no command in it; and nothing here asks an index
    "pip": '"{outside}" -m pip --python "{python}" "$@" --no-index --no-build-isolation --quiet',
    "pytest": '"{python}" -m pytest -p no:cacheprovider "$@"',
}
_IN_TURN = """
import runpy, shlex, sys
script, *lines = sys.argv[1:]
for line in lines:
    _, *words = shlex.split(line)
    sys.argv = [script, *words]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""
_FOREIGN = ("PYTHON", "PYTEST", "PIP_", "MSDM_KIT", "VIRTUAL_ENV", "CONDA", "COV_")


class Environment:
    """A virtual environment with msdm_kit, installed from its wheel.

    It borrows the files of what msdm_kit requires, and of `TOOLS`, from the environment of the tests, and
    nothing else: neither what is installed of msdm_kit there nor what no requirement names.

    Parameters
    ----------
    folder : Path
        Where it will be.
    shelf : Path
        From `fill_shelf`.
    """

    def __init__(self, folder: Path, shelf: Path) -> None:
        self.folder = folder
        venv.create(folder, symlinks=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "borrowed.pth").write_text(f"{shelf / 'borrowed'}\n", encoding="utf-8")
        for name, line in _SCRIPTS.items():
            script = folder / "bin" / name
            words = line.format(outside=sys.executable, python=folder / "bin" / "python")
            script.write_text(f"#!/bin/sh\nexec {words}\n", encoding="utf-8")
            script.chmod(0o755)
        (wheel,) = shelf.glob("msdm_kit-*.whl")
        self.run(f"pip install --no-compile {wheel}", at=folder)
        assert self.origin("msdm_kit").is_relative_to(folder)

    def commands(self, lines: Iterable[str], *, at: Path) -> str:
        """Run the command ``msdm-kit`` of this environment, line after line; what it prints.

        In one process, as importing takes longer than what they do.
        """
        words = shlex.join(["-c", _IN_TURN, str(self.folder / "bin" / "msdm-kit"), *lines])
        return self.run(f"python {words}", at=at)

    def run(self, script: str, *, at: Path) -> str:
        """Run lines of a shell in the folder `at`, up to the first that fails; what they print."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        path = f"{self.folder / 'bin'}{os.pathsep}{kept.get('PATH', os.defpath)}"
        own = {"PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONNOUSERSITE": "1"}
        command = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, cwd=at, env={**kept, **own})
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def origin(self, module: str) -> Path:
        """The file that a module is imported from."""
        said = self.run(f"python -c 'import {module}; print({module}.__file__)'", at=self.folder)
        return Path(said.strip())


def fill_shelf(shelf: Path) -> Path:
    """The wheel of msdm_kit, and links to what it requires, in a folder; one process does it for all."""
    shelf.mkdir(parents=True, exist_ok=True)
    with (shelf / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shelf / "borrowed").exists():
            _build_wheel(shelf)
            _borrow(shelf)
    return shelf


def _build_wheel(shelf: Path) -> None:
    """From a copy of the sources, as building writes beside them."""
    setup = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    sources = shelf / "sources"
    folders = {name.split(".")[1] for name in setup["packages"] if "." in name}
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in sorted(folders):
        shutil.copytree(CHECKOUT / folder, sources / folder, ignore=ignored)
    for path in CHECKOUT.iterdir():
        if path.is_file() and path.suffix in (".py", ".toml", ".md", ".typed", ""):
            shutil.copy(path, sources)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--wheel-dir", str(shelf), "./sources"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=shelf)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(sources)


def _borrow(shelf: Path) -> None:
    """Link what is installed of msdm_kit's requirements, and of theirs."""
    (wheel,) = shelf.glob("msdm_kit-*.whl")
    (about,) = metadata.MetadataPathFinder.find_distributions(
        metadata.DistributionFinder.Context(path=[str(wheel)])
    )
    borrowed = shelf / "borrowed.part"
    borrowed.mkdir()
    for distribution in _closure([*(about.requires or ()), *TOOLS]):
        tops = {path.parts[0] for path in distribution.files or ()}
        for top in tops - {"..", "__pycache__"}:
            link = borrowed / top
            if not link.exists() and link.suffix != ".pth":
                link.symlink_to(Path(str(distribution.locate_file(top))))
    borrowed.rename(shelf / "borrowed")


def _closure(requirements: Iterable[str]) -> Iterator[metadata.Distribution]:
    """What is installed of requirements and of what those require in turn."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(text, frozenset[str]()) for text in requirements]
    while waiting:
        text, extras = waiting.pop()
        one = Requirement(text)
        wanted = one.name.lower(), frozenset(one.extras)
        if wanted in seen or not _applies(one, extras):
            continue
        seen.add(wanted)
        distribution = metadata.distribution(one.name)
        yield distribution
        waiting += [(below, wanted[1]) for below in distribution.requires or ()]


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def copy_of(package: Path, parent: Path) -> Path:
    """A package's sources without what building and testing left there."""
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    return Path(shutil.copytree(package, parent / package.name, ignore=ignored))


def small(script: str, settings: Sequence[str] = ()) -> str:
    """A script whose training commands are small ones."""
    words = "".join(f" --set {setting}" for setting in (*TOY, *settings))
    return re.sub(r"^(msdm-kit train .*)$", rf"\1{words}", script, flags=re.M)


def shell_blocks(page: Path) -> list[str]:
    """The fenced blocks of a shell on a page, in order."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
