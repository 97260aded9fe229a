"""The examples in docstrings. Not by ``--doctest-modules``, which would import the checkout a second time."""

import doctest
import importlib
import pkgutil

import pytest

import msdm_kit

# An editable install finds what lies in the checkout beside the package, too.
BESIDE = ("msdm_kit.benchmarks", "msdm_kit.examples")
FOUND = [info.name for info in pkgutil.walk_packages(msdm_kit.__path__, "msdm_kit.")]
MODULES = ["msdm_kit", *(name for name in FOUND if not name.startswith(BESIDE))]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    found = [t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples]
    assert len(found) >= 5
