"""A data set and a recipe that train in a second, and the commands as a user gives them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from msdm_kit.cli.main import run

RECIPE = """\
name: tiny
data: {masks: [nucleus], crop: 16}
conditioners:
  morphology: {type: hv_maps, masks: [nucleus], drop: 0.1}
  colour: {type: rgb_statistics, masks: [nucleus]}
  tissue: {type: class_label, column: indication, dim: 4}
injectors:
  - {type: spade, from: [morphology, colour], at: [middle, decoder], hidden: 4}
  - {type: film, from: [tissue], at: [embedding]}
backbone: {type: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention_strides: [], head_channels: 8, groups: 4}
train: {steps: 4, batch: 2, lr: 1e-3, precision: fp32, validate_every: 2, preview_every: 4, save_every: 2}
sample: {steps: 2}
"""  # noqa: E501


@dataclass(frozen=True)
class Outcome:
    """What a command printed, and its exit status."""

    code: int
    out: str
    err: str


@pytest.fixture
def msdm(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command in this process."""

    def call(*words: str | Path) -> Outcome:
        capfd.readouterr()
        code = run([str(w) for w in words])
        return Outcome(code, *capfd.readouterr())

    return call


@pytest.fixture
def threads() -> Iterator[None]:
    """Put back what --threads sets in this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def process() -> Callable[..., "subprocess.Popen[str]"]:
    """Start the command as a process of its own."""

    def start(*words: str | Path, python: str = "") -> "subprocess.Popen[str]":
        code = python or "from msdm_kit.cli.main import main; main()"
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            # a shell lets what it starts in the background ignore Ctrl-C, the tests among it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    return start


def write_field(folder: Path, id: str, *, size: tuple[int, int] = (24, 20), seed: int = 0) -> None:
    """An image and its nucleus mask, with two instances."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(size, np.uint16)
    labels[3:11, 3:10], labels[12:20, 8:17] = 1, 2
    image = np.where(labels[..., None] > 0, (90, 60, 140), (235, 200, 220)) + rng.integers(-9, 9, (*size, 3))
    for name, array in (("images", image.clip(0, 255).astype(np.uint8)), ("nuclei", labels)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / name / f"{id}.png")


def write_data(folder: Path) -> Path:
    """A folder of six fields, four to train on."""
    lines = ["id,split,indication"]
    for i in range(6):
        write_field(folder, f"f{i}", seed=i)
        lines.append(f"f{i},{'train' if i < 4 else 'val'},{'left' if i % 2 else 'right'}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What `write_data` writes."""
    return write_data(tmp_path / "data")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path
