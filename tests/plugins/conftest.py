"""Entry points and recipes made up for the tests of the host and of building; a sampling job."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from msdm_kit.plugins.descriptor import API_LEVEL
from msdm_kit.plugins.hookspecs import hookimpl
from msdm_kit.plugins.host import API_NAME, BLOCK_VARIABLE, Host

from ..sampled import job, make, middle_bound


@dataclass
class FakeEntry:
    """As much of an entry point as the host uses; `module` is what it loads, or an exception."""

    name: str
    module: Any
    package: str = ""

    @property
    def dist(self) -> Any:
        return SimpleNamespace(name=self.package or f"{self.name}-package", version="1.2")

    def load(self) -> Any:
        if isinstance(self.module, BaseException):
            raise self.module
        return self.module


def module_with(level: Any = API_LEVEL, **hooks: Any) -> SimpleNamespace:
    """A module whose hooks return the given values, or raise them; without a `level` it states none."""

    def implement(name: str, value: Any) -> Any:
        def hook() -> Any:
            if isinstance(value, BaseException):
                raise value
            return value

        hook.__name__ = name
        return hookimpl(hook)

    stated = {} if level is None else {API_NAME: level}
    return SimpleNamespace(**stated, **{name: implement(name, value) for name, value in hooks.items()})


@pytest.fixture
def entry() -> type[FakeEntry]:
    return FakeEntry


@pytest.fixture
def module() -> Callable[..., SimpleNamespace]:
    return module_with


@pytest.fixture
def host_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Host]:
    """A host that finds exactly the given entry points besides the built-ins."""

    found = metadata.entry_points

    def make(*entries: FakeEntry, block: tuple[str, ...] = (), environment: str = "") -> Host:
        def entry_points(**params: Any) -> Any:
            # whoever is imported for the first time meanwhile may look for plugins of its own
            return list(entries) if params == {"group": "msdm_kit"} else found(**params)

        monkeypatch.setattr(metadata, "entry_points", entry_points)
        monkeypatch.setenv(BLOCK_VARIABLE, environment)
        return Host(block)

    return make


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and a run, for sampling jobs of seconds."""
    root = tmp_path_factory.mktemp("job")
    make(root)
    return root


@pytest.fixture(scope="module")
def bound(root: Path) -> float:
    """What some of its paintings do not reach."""
    return middle_bound(root)


@pytest.fixture(scope="module")
def whole(root: Path, bound: float) -> Path:
    """A job that nothing happened to."""
    job(root, root / "whole", bound)
    return root / "whole"
