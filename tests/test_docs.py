"""What the documentation says is what there is."""

import os
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

import msdm_kit
from msdm_kit.cli.main import app
from msdm_kit.core import recipe as sections
from msdm_kit.core.recipe import ConditionerEntry, InjectorEntry, Recipe
from msdm_kit.plugins import hookspecs
from msdm_kit.plugins.hookspecs import KINDS, hook_name
from msdm_kit.plugins.host import Host, get_host
from msdm_kit.plugins.testing import CONFORMANCE

from .doc_blocks import FENCE, pages

CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[1]))
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
PAGES = sorted({*CHECKOUT.glob("*.md"), *CHECKOUT.glob("benchmarks/*.md"), *pages(CHECKOUT)})
blocks = runpy.run_path(str(CHECKOUT / ".ci" / "readme_block.py"))["blocks"]


def page(name: str) -> str:
    return (CHECKOUT / "docs" / name).read_text(encoding="utf-8")


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
    hooks = {name for name in vars(hookspecs) if name.startswith("msdm_kit_")}
    assert hooks == {hook_name(kind) for kind in KINDS}
    assert hooks == {row for row in table_rows(page("hooks.md")) if row.startswith("msdm_kit_")}


def test_every_class_of_the_conformance_kit_is_described():
    assert CONFORMANCE.keys() == set(KINDS)
    for found in CONFORMANCE.values():
        assert f"`{found.__name__}`" in page("plugins.md"), found.__name__


def test_every_public_name_is_in_the_api():
    shown = re.findall(r"^::: (\S+)$", page("api.md"), flags=re.MULTILINE)
    where = {name: getattr(msdm_kit, name) for name in msdm_kit.__all__ if name != "__version__"}
    assert sorted(shown) == sorted(f"{thing.__module__}.{name}" for name, thing in where.items())


def leaves(command, path=()):
    """Every command that does something, with the words that call it."""
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*path, name))
    if path and (not hasattr(command, "commands") or command.invoke_without_command):
        yield " ".join(path), command


def test_the_command_line_is_described_option_by_option():
    described = dict(re.findall(r"^## `msdm-kit ([a-z -]+)`\n(.*?)(?=^## |\Z)", page("cli.md"), re.M | re.S))
    found = dict(leaves(get_command(app)))
    assert described.keys() == found.keys()
    for name, command in found.items():
        heads = re.findall(r"^\| `([^`]+)` \|", described[name].replace("\\|", "/"), re.M)
        options = {option for head in heads for option in re.findall(r"--[a-z-]+", head)}
        there = {o for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("--")}
        assert options == there - {"--help"}, name


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
        ("recipes", "autoencoder"),
        ("latents", "autoencoder"),
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


def test_every_page_is_in_the_navigation_of_the_site():
    project = tomllib.loads((CHECKOUT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    parts = [part for parts in project["nav"] for part in parts.values()]
    listed = [name for part in parts for entry in part for name in entry.values()]
    docs = CHECKOUT / "docs"
    assert sorted(listed) == sorted(str(p.relative_to(docs)) for p in docs.rglob("*.md"))
    assert project["theme"]["font"] is False


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_lead_somewhere(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        goal = (path.parent / name).resolve() if name else path
        assert goal.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", goal.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, target
