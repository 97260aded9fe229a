"""A package to begin with: it installs, passes its own tests, trains and paints, as it is written."""

import ast
import os
import re
from pathlib import Path

import pytest

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.new_plugin import new_plugin

from ..packages import install, run_tests, train_and_sample

CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[2]))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Without waiting for the disc."""
    monkeypatch.delattr(os, "sync", raising=False)


def files(folder: Path) -> dict[str, str]:
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in found}


def code_lines(text: str) -> int:
    """Lines of a module but for imports, docstrings and blank ones."""
    tree = ast.parse(text)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    lines = text.splitlines()
    body = [line for c in classes for line in lines[c.lineno - 1 : c.end_lineno]]
    return sum(bool(line.strip()) and not line.strip().startswith('"""') for line in body)


def test_it_installs_passes_its_tests_trains_and_paints(tmp_path):
    package = new_plugin("cell_share", tmp_path)
    assert package == tmp_path / "msdm-kit-cell-share"
    site = tmp_path / "site"
    copy = install(package, site)
    said = run_tests(site, copy)
    assert re.search(r"^2\d passed", said, re.M), said
    out = train_and_sample(site, copy / "cell_share.yaml", [], tmp_path)
    assert len(list((out / "images").glob("*.png"))) == 1


def test_the_conditioner_is_as_short_as_it_is_said(tmp_path):
    written = files(new_plugin("crowding", tmp_path))
    assert 15 <= code_lines(written["msdm_kit_crowding/conditioner.py"]) <= 25


def test_the_tutorial_shows_what_is_written(tmp_path):
    text = (CHECKOUT / "docs" / "plugins.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^```\w+\n# (\S+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
    written = files(new_plugin("crowding", tmp_path))
    assert {name: content.strip() for name, content in shown.items()} == {
        name: written[name].strip() for name in shown
    }
    assert len(shown) >= 5


@pytest.mark.parametrize("name", ["Stain", "a-b", "1a", "a__b", "_a", "a/../b", "", "a" * 41, "stän"])
def test_names_that_are_none_are_refused(tmp_path, name):
    with pytest.raises(MsdmError, match="lower-case letters") as error:
        new_plugin(name, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_names_and_folders_that_are_taken_are_refused(tmp_path):
    with pytest.raises(MsdmError, match="already"):
        new_plugin("hv_maps", tmp_path)
    new_plugin("fine", tmp_path)
    with pytest.raises(MsdmError, match="not an empty folder"):
        new_plugin("fine", tmp_path)
