"""What the documentation says is what there is."""

import ast
import importlib
import json
import os
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import msdm_kit
from msdm_kit.cli.main import app
from msdm_kit.core import recipe as sections
from msdm_kit.core.recipe import ConditionerEntry, InjectorEntry, Recipe
from msdm_kit.plugins.hookspecs import KINDS, hook_name
from msdm_kit.plugins.host import Host, get_host
from msdm_kit.plugins.recipe_files import load_recipe

CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[1]))
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
PAGES = [*sorted(CHECKOUT.glob("*.md")), *sorted((CHECKOUT / "docs").glob("*.md"))]
blocks = runpy.run_path(str(CHECKOUT / ".ci" / "readme_block.py"))["blocks"]


def page(name: str) -> str:
    return (CHECKOUT / "docs" / name).read_text(encoding="utf-8")


def code(language: str) -> list[tuple[str, str]]:
    """Every fenced block of a language, with the page it stands on."""
    return [
        (path.name, content)
        for path in PAGES
        for found, content in blocks(path.read_text(encoding="utf-8"))
        if found == language
    ]


def table_rows(text: str) -> set[str]:
    return set(re.findall(r"^\| `([^`]+)`", text, flags=re.MULTILINE))


def test_the_readme_begins_with_two_blocks_of_bash():
    (first, job), (second, tests) = blocks(README)[:2]
    assert first == second == "bash"
    assert "pip install ." in job
    assert "msdm-kit train quickstart --out" in job
    assert 'pip install -e ".[dev]"' in tests
    assert tests.splitlines()[-1].split()[:2] == ["OMP_NUM_THREADS=1", "pytest"]


def test_ci_runs_the_readmes_second_block():
    script = (CHECKOUT / ".ci" / "run").read_text(encoding="utf-8")
    assert 'readme_block.py README.md 2 >"$tmp/block.sh"' in script
    assert re.search(r'bash -euo pipefail "\$tmp/block\.sh"', script)
    assert os.access(CHECKOUT / ".ci" / "run", os.X_OK)


def test_the_readmes_commands_parse():
    root = get_command(app)
    lines = [line for line in blocks(README)[0][1].splitlines() if line.startswith("msdm-kit")]
    assert len(lines) == 3
    for line in lines:
        name, *arguments = shlex.split(line)[1:]
        root.commands[name].make_context(name, arguments)  # raises where an option is missing or unknown


def test_every_command_is_in_the_readme():
    for name in get_command(app).commands:
        assert f"| `msdm-kit {name}" in README


def test_every_recipe_is_in_the_readme():
    assert set(get_host().names("recipe")) <= table_rows(README)


def test_every_hook_is_described():
    assert {hook_name(kind) for kind in KINDS} == {
        row for row in table_rows(page("plugins.md")) if row.startswith("msdm_kit_")
    }


def test_every_public_name_is_in_the_api():
    headings = set(re.findall(r"^### `(\w+)`", page("api.md"), flags=re.MULTILINE))
    assert headings == set(msdm_kit.__all__) - {"__version__"}


def test_every_section_of_a_recipe_is_described():
    text = page("recipes.md")
    models = [Recipe, ConditionerEntry, InjectorEntry]
    models += [getattr(sections, f"{s}Section") for s in ("Data", "Diffusion", "Ema", "Train", "Sample")]
    for model in models:
        for name, field in model.model_fields.items():
            assert f"`{field.alias or name}`" in text, f"{model.__name__}.{name}"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("conditioners", "conditioner"),
        ("recipes", "injector"),
        ("recipes", "backbone"),
        ("recipes", "solver"),
    ],
)
def test_every_plugin_and_its_settings_are_described(kind, name):
    text = page(f"{kind}.md")
    for plugin in Host().names(name):
        assert f"`{plugin}`" in text
        config = getattr(get_host().load(name, plugin), "Config", None)
        for setting in config.model_fields if config else ():
            assert f"`{setting}`" in text, f"{plugin}.{setting}"


@pytest.mark.parametrize(("where", "source"), code("python"))
def test_python_compiles_and_what_it_imports_is_there(where, source):
    tree = ast.parse(source)
    for node in ast.walk(tree):
        # a package that a page makes up is installed and tested by tests/plugins/test_new_plugin.py
        if isinstance(node, ast.ImportFrom) and not str(node.module).startswith("msdm_kit_"):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize(("where", "source"), [*code("yaml"), *code("toml"), *code("json")])
def test_data_blocks_parse(where, source):
    for parse in (yaml.safe_load, tomllib.loads, json.loads):
        try:
            assert isinstance(parse(source), dict)
        except (yaml.YAMLError, tomllib.TOMLDecodeError, json.JSONDecodeError):
            continue
        return
    pytest.fail(f"{where}: neither YAML nor TOML nor JSON")


def test_the_example_recipe_is_legal(tmp_path):
    (source,) = [s for where, s in code("yaml") if where == "recipes.md"]
    (tmp_path / "mine.yaml").write_text(source, encoding="utf-8")
    assert load_recipe(tmp_path / "mine.yaml").data.crop == 256


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```\s*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        goal = (path.parent / name).resolve() if name else path
        assert goal.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", goal.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, target
