"""Fixtures that every test may ask for."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from .golden.weights import weights
from .packages import Environment, fill_shelf

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Golden:
    """Numbers of the public reference: tensors, arguments, and the weights they were made with."""

    tensors: dict[str, Tensor]
    arguments: dict[str, Any]

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def __contains__(self, key: object) -> bool:
        return key in self.tensors

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        return {k: torch.from_numpy(w) for k, w in weights(self.arguments["state"]).items()}

    @property
    def state(self) -> dict[str, Tensor]:
        """The reference's state dict, under the reference's keys; the tensors are shared, the dict is not."""
        return dict(self._weights)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """Open a golden file by its name."""

    @cache
    def load(name: str) -> Golden:
        with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
            words = {k: v for k, v in file.metadata().items() if k not in ("reference", "torch")}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (it has no __iter__)
        return Golden(tensors, {k: json.loads(v) for k, v in words.items()})

    return load


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What clean environments are made of, once for all processes of the tests."""
    base = tmp_path_factory.getbasetemp()
    return fill_shelf((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shelf")


@pytest.fixture(scope="module")
def environment(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A clean environment with msdm_kit, of the tests of one file."""
    return Environment(tmp_path_factory.mktemp("clean") / "environment", shelf)
