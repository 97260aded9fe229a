"""Without the file of one built-in, all works but the recipes that name it."""

import functools
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import msdm_kit
from msdm_kit.plugins.host import get_host
from msdm_kit.plugins.recipe_files import load_recipe

PACKAGE = Path(msdm_kit.__file__).parent
PARTS = ("core", "conditioners", "backbones", "plugins", "cli")
KINDS = ("conditioner", "injector")
BUILTINS = [(kind, name) for kind in KINDS for name in get_host().names(kind)]
BUILTINS = [(k, n) for k, n in BUILTINS if get_host().origin(k, n).package == "msdm-kit"]
SMALL = [
    "backbone={channels: 32, multipliers: [1, 1], blocks: 1, attention_strides: [], head_channels: 32}",
    "backbone.groups=8",
    "data.crop=32",
]

# A process of its own for each deletion, forked from one that has imported what is not msdm_kit.
_CHILDREN = """
import contextlib, io, json, os, sys
import torch
from transformers.models.bert import modeling_bert

def attempt():
    from msdm_kit.cli.main import run
    from msdm_kit.core.errors import MsdmError
    from msdm_kit.plugins.build import build_conditioners, build_denoiser
    from msdm_kit.plugins.recipe_files import load_recipe
    found = {"commands": [], "recipes": {}}
    for words in (["plugins"], ["recipes"], ["--help"]):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = run(words)
        found["commands"].append([code, said.getvalue()])
    for name in recipes:
        try:
            recipe = load_recipe(name, small)
            build_denoiser(recipe, build_conditioners(recipe, rows=rows))
        except MsdmError as error:
            found["recipes"][name] = str(error)
    return found

files, recipes, small, rows = json.loads(sys.argv[1])
for file in files:
    os.rename(file, file + ".deleted")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with open(writer, "w") as out:
            json.dump(attempt(), out)
        os._exit(0)
    os.close(writer)
    with open(reader) as said:
        print(said.read() or "null")
    os.waitpid(child, 0)
    os.rename(file + ".deleted", file)
"""


def copy_of_the_package(folder: Path) -> Path:
    """Its folders, and links to its files."""
    copy = folder / "msdm_kit"
    copy.mkdir()
    for path in [*PACKAGE.glob("*.py"), *(p for part in PARTS for p in PACKAGE.joinpath(part).rglob("*"))]:
        if path.is_file() and "__pycache__" not in path.parts:
            link = copy / path.relative_to(PACKAGE)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return copy


def file_of(kind: str, name: str) -> str:
    """The path of a plugin's module within the package."""
    module = importlib.import_module(get_host().load(kind, name).__module__)
    return str(Path(str(module.__file__)).relative_to(PACKAGE))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What is left without each built-in: the commands that list, and the messages of recipes that fail."""
    folder = tmp_path_factory.mktemp("copy")
    copy = copy_of_the_package(folder)
    files = [str(copy / file_of(*one)) for one in BUILTINS]
    rows = [{"assay": "a", "indication": "b"}]
    words = json.dumps([files, get_host().names("recipe"), SMALL, rows])
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    command = [sys.executable, "-c", _CHILDREN, words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(BUILTINS, found, strict=True))


@functools.cache
def naming(kind: str, name: str) -> set[str]:
    """The recipes that name a plugin."""
    found = set()
    for one in get_host().names("recipe"):
        recipe = load_recipe(one)
        entries = recipe.conditioners.values() if kind == "conditioner" else recipe.injectors
        if any(entry.type == name for entry in entries):
            found.add(one)
    return found


@pytest.mark.parametrize(("kind", "name"), BUILTINS)
def test_only_the_recipes_that_name_it_break(outcomes, kind, name):
    failed = outcomes[kind, name]["recipes"]
    assert failed.keys() == naming(kind, name)
    for message in failed.values():
        assert "\n" not in message
        assert f"{kind} {name!r} of msdm-kit" in message
        assert "does not load" in message


@pytest.mark.parametrize(("kind", "name"), BUILTINS)
def test_everything_is_listed_all_the_same(outcomes, kind, name):
    listings = outcomes[kind, name]["commands"]
    assert [code for code, _ in listings] == [0, 0, 0]
    plugins, recipes, _ = (said for _, said in listings)
    assert all(one in plugins for _, one in BUILTINS)
    assert all(one in recipes for one in get_host().names("recipe"))
    assert "problem" not in recipes


def test_every_built_in_is_named_by_a_recipe():
    """Otherwise its deletion would show nothing."""
    assert all(naming(kind, name) for kind, name in BUILTINS)
