"""The packages in examples/: each installs, passes its own tests, trains and paints through the command."""

import os
import re
from pathlib import Path

import pytest

from .packages import install, run_tests, train_and_sample

CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[1]))
SMALLER = {"stain": [], "density": [], "reference": ["conditioners.reference.model=test_vit"]}
PACKAGES = sorted(p.parent for p in (CHECKOUT / "examples").glob("*/pyproject.toml"))


def test_these_are_the_packages():
    assert [p.name for p in PACKAGES] == [f"msdm-kit-{name}" for name in sorted(SMALLER)]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_it_installs_passes_its_tests_trains_and_paints(package, tmp_path):
    name = package.name.removeprefix("msdm-kit-")
    site = tmp_path / "site"
    copy = install(package, site)
    assert re.search(r"^\d\d+ passed", run_tests(site, copy), re.M)
    out = train_and_sample(site, name, SMALLER[name], tmp_path)
    assert len(list((out / "images").glob("*.png"))) == 1
