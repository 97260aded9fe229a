"""An experiment that runs in seconds: a data set, tiny generators, a segmenter that is a threshold."""

from pathlib import Path
from typing import Any

import yaml

from msdm_kit.plugins.experiment.costs import Costs
from msdm_kit.plugins.experiment.graph import build_steps
from msdm_kit.plugins.experiment.plan_files import load_plan
from msdm_kit.plugins.experiment.protocol import Protocol, open_protocol
from msdm_kit.plugins.experiment.steps import Step

from .toy import toy_folder

SPLITS = ("train", "train", "train", "train", "val", "val", "columnar", "columnar", "mixed", "mixed")

RECIPE = """\
name: tiny
data: {masks: [cell, nucleus], crop: 16}
conditioners:
  morphology: {type: hv_maps, masks: [cell, nucleus]}
injectors:
  - {type: spade, from: [morphology], at: [middle, decoder], hidden: 4}
backbone: {type: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention_strides: [], head_channels: 8, groups: 4}
train: {steps: 3, batch: 2, lr: 1e-3, precision: fp32, validate_every: 9, preview_every: 9, save_every: 1}
sample: {steps: 2}
"""  # noqa: E501

SEGMENTER = '''\
"""A pixel is foreground where its colour is nearer to that of foreground; pieces are instances."""

import os
import time

import numpy as np
import torch

from msdm_kit.core.checkpoint import load_tensors, save_tensors
from msdm_kit.core.conditioning import PluginConfig
from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.descriptor import Plugin
from msdm_kit.plugins.hookspecs import hookimpl
from msdm_kit.plugins.segmenters.base import Losses, Segmenter


class Config(PluginConfig):
    epochs: int = 2
    fails: str = ""


class Nearest(Segmenter):
    Config = Config

    def fit(self, train, validation, *, seed, on_progress=None):
        if self.config.fails == "mistake":
            raise MsdmError("the toy was told to fail; tell it not to")
        if self.config.fails == "error":
            raise ValueError("the toy was told to fail")
        if self.config.fails == "death":
            os._exit(3)
        time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
        inside, outside = [], []
        for i in range(len(train)):
            field = train[i]
            mask = field.labels(self.kind) > 0
            inside.append(field.image[:, mask].mean(axis=1))
            outside.append(field.image[:, ~mask].mean(axis=1))
        jitter = np.random.default_rng(seed).normal(0, 0.02, 3)
        self.colours = np.stack([np.mean(inside, 0) + jitter, np.mean(outside, 0)]).astype(np.float32)
        if on_progress is not None:
            on_progress(1, 1)
        return Losses((0.0,))

    def segment(self, image):
        from scipy.ndimage import label

        distance = ((image[None] - self.colours[:, :, None, None]) ** 2).sum(axis=1)
        return label(distance[0] < distance[1])[0].astype(np.int32)

    def save(self, path):
        save_tensors(path, {"colours": torch.from_numpy(self.colours)}, {})

    def load(self, path):
        self.colours = load_tensors(path)[0]["colours"].numpy()


@hookimpl
def msdm_kit_segmenters():
    return [Plugin("nearest", "For tests.", lambda: Nearest)]
'''


def toy_package(folder: Path) -> Path:
    """An installed package with the segmenter `nearest`: a folder for PYTHONPATH."""
    info = folder / "toy_segmenter-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "toy_segmenter.py").write_text(SEGMENTER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-segmenter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[msdm_kit]\ntoy = toy_segmenter\n")
    return folder


def toy_plan(folder: Path, **changes: Any) -> Path:
    """A plan, its data and its recipe in a folder; `changes` replace keys of the plan."""
    data = folder / "data"
    if not data.exists():
        toy_folder(data, [f"f{i:02d}" for i in range(len(SPLITS))], SPLITS)
        (folder / "tiny.yaml").write_text(RECIPE)
    plan = {
        "data": "data",
        "tests": {"columnar": {"split": "columnar"}, "mixed": {"split": "mixed", "title": "Mixed cells"}},
        "generators": {
            "sdm": {"title": "SDM", "recipe": "tiny.yaml"},
            "msdm": {"title": "MSDM", "recipe": "tiny.yaml", "steps": 4, "set": [COLOUR, INJECTORS]},
        },
        "selection": {
            "where": "mean_nucleus_eccentricity >= 0",
            "sort": "mean_nucleus_eccentricity",
            "limit": 2,
        },
        "synthesis": {"versions": 2},
        "segmenter": {"type": "nearest"},
        "seeds": 2,
        "fidelity": {"groups": ["assay"]},
        **changes,
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return path


COLOUR = 'conditioners.colour={"type": "rgb_statistics", "masks": ["cell", "nucleus"]}'
INJECTORS = "injectors=[{type: spade, from: [morphology, colour], at: [middle, decoder], hidden: 4}]"


def steps_of(path: Path) -> tuple[Protocol, list[Step]]:
    """The protocol and its steps; costs are not estimated, which takes a second."""
    protocol = open_protocol(load_plan(path), path)
    costs = Costs(dict.fromkeys(protocol.recipes, 1.0), dict.fromkeys(protocol.recipes, 1.0), 1.0, 1.0)
    return protocol, build_steps(protocol, costs)


def done_times(out: Path) -> dict[str, int]:
    """When each step was done, in nanoseconds."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (out / "steps").glob("*/done.json")}
