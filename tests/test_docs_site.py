"""The site of the documentation builds without a warning, and asks for nothing from elsewhere."""

import html.parser
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import msdm_kit

CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[1]))
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}

pytestmark = pytest.mark.skipif(
    find_spec("zensical") is None or find_spec("mkdocstrings_handlers") is None,
    reason="the extra docs is not installed",
)


class Loads(html.parser.HTMLParser):
    """What a page loads, and the ids in it."""

    def __init__(self, text):
        super().__init__()
        self.files, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.add(found.get("id"))
        if found.get(LOADS.get(tag)):
            self.files.append(found[LOADS[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built as CONTRIBUTING.md says, from a copy."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(CHECKOUT / "docs", folder / "docs")
    shutil.copy(CHECKOUT / "zensical.toml", folder)
    (folder / "sources").mkdir()
    (folder / "sources" / "msdm_kit").symlink_to(Path(msdm_kit.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "sources"), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    return folder / "site"


def test_there_is_a_page_for_each(site):
    for source in (CHECKOUT / "docs").rglob("*.md"):
        path = site / source.relative_to(CHECKOUT / "docs").with_suffix(".html")
        assert "<h1" in path.read_text(encoding="utf-8"), source


def test_nothing_is_asked_for_from_elsewhere(site):
    for path in site.rglob("*.html"):
        page = Loads(path.read_text(encoding="utf-8"))
        assert page.files
        for name in page.files:
            if path.name != "404.html":  # whose links begin at the server's root
                assert (path.parent / name.partition("?")[0].partition("#")[0]).exists(), (path, name)
            assert not name.startswith(("http:", "https:", "//")), (path, name)


def test_the_docstrings_of_the_public_names_are_there(site):
    page = Loads((site / "api.html").read_text(encoding="utf-8"))
    for name in msdm_kit.__all__:
        if name != "__version__":
            thing = getattr(msdm_kit, name)
            assert f"{thing.__module__}.{name}" in page.ids
    assert "msdm_kit.plugins.pipeline.Pipeline.sample" in page.ids
