"""A package to begin with: it installs, passes its own tests, trains and paints, as it is written."""

import ast
import os
import re
from pathlib import Path

import pytest

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.new_plugin import new_plugin

from ..packages import CHECKOUT, shell_blocks, small

TUTORIAL = CHECKOUT / "docs" / "plugins.md"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Without waiting for the disc."""
    monkeypatch.delattr(os, "sync", raising=False)


def files(folder: Path) -> dict[str, str]:
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in found}


def shown_files() -> dict[str, str]:
    """The files that the tutorial shows, by the path on their first line."""
    text = TUTORIAL.read_text(encoding="utf-8")
    return dict(re.findall(r"^```\w+\n# (\S+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))


def code_lines(text: str) -> int:
    """Lines of a module but for imports, docstrings and blank ones."""
    tree = ast.parse(text)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    lines = text.splitlines()
    body = [line for c in classes for line in lines[c.lineno - 1 : c.end_lineno]]
    return sum(bool(line.strip()) and not line.strip().startswith('"""') for line in body)


def test_the_tutorial_works_as_it_is_written(environment, tmp_path):
    """In a clean environment: its commands, and its files in place of those that the first command writes."""
    begin, train = [b for b in shell_blocks(TUTORIAL) if "crowding" in b]
    write, rest = begin.split("\n", 1)
    environment.run(write, at=tmp_path)
    package = tmp_path / "msdm-kit-crowding"
    for name, content in shown_files().items():
        assert (package / name).read_text(encoding="utf-8").strip() == content.strip()
        (package / name).write_text(content, encoding="utf-8")
    said = environment.run(rest, at=tmp_path)
    assert re.search(r"= 2\d passed in", said), said
    assert environment.origin("msdm_kit_crowding").is_relative_to(package)
    sample = "msdm-kit sample runs/crowding --data histology-nuclei --n 1 --out painted"
    environment.commands(["msdm-kit plugins show crowding", *small(train).splitlines(), sample], at=tmp_path)
    assert len(list((tmp_path / "painted" / "images").glob("*.png"))) == 1


def test_a_name_of_two_words_installs_and_passes_its_tests(environment, tmp_path):
    package = new_plugin("cell_share", tmp_path)
    assert package == tmp_path / "msdm-kit-cell-share"
    said = environment.run(
        'pip install "./msdm-kit-cell-share[test]"; pytest msdm-kit-cell-share', at=tmp_path
    )
    assert environment.origin("msdm_kit_cell_share").is_relative_to(environment.folder)
    assert re.search(r"= 2\d passed in", said), said


def test_the_conditioner_is_as_short_as_it_is_said(tmp_path):
    written = files(new_plugin("crowding", tmp_path))
    assert 15 <= code_lines(written["msdm_kit_crowding/conditioner.py"]) <= 25


def test_the_tutorial_shows_what_is_written(tmp_path):
    written, shown = files(new_plugin("crowding", tmp_path)), shown_files()
    assert {name: content.strip() for name, content in shown.items()} == {
        name: written[name].strip() for name in shown
    }
    assert {name for name in written if not name.endswith(("README.md", "__init__.py"))} == set(shown)


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
