"""A sampling job of seconds: fields with classes, a run, and what the job leaves."""

from pathlib import Path
from typing import Any

import numpy as np

from msdm_kit.core.images import read_labels
from msdm_kit.core.manifest import read_manifest
from msdm_kit.plugins.filtering import Thresholds
from msdm_kit.plugins.instances import InstanceFile
from msdm_kit.plugins.painting import paint
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.recombination import Recombination
from msdm_kit.plugins.sampling.pair_folder import rejected_folder
from msdm_kit.plugins.sampling.products import Summary
from msdm_kit.plugins.training import train

from .toy import toy_folder

IDS = ["a", "b", "c", "d"]
RECIPE = """\
name: tiny
data: {masks: [cell, nucleus], crop: 16}
conditioners:
  morphology: {type: hv_maps, masks: [nucleus], drop: 0.1}
  colour: {type: rgb_statistics, masks: [nucleus]}
injectors:
  - {type: spade, from: [morphology, colour], at: [middle, decoder], hidden: 4}
backbone:
  {type: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention_strides: [],
   head_channels: 8, groups: 4}
train: {steps: 1, batch: 2, precision: fp32}
sample: {steps: 1, precision: fp32}
"""
ASKED: dict[str, Any] = {
    "n": 4,
    "split": "all",
    "seed": 3,
    "tries": 2,
    "device": "cpu",
    "recombination": Recombination(frozenset({"appearance"})),
}


def make(root: Path) -> None:
    """Write ``data`` and ``run``."""
    data = toy_folder(root / "data", IDS, ["train", "train", "val", "val"])
    with InstanceFile(data) as file:
        for id in IDS[:3]:
            labels = np.unique(read_labels(data / "nuclei" / f"{id}.png")).tolist()[1:]
            file.add(id, {"nucleus": {k: f'odd "{k % 2}",\n' for k in labels}})
    (root / "tiny.yaml").write_text(RECIPE)
    train(load_recipe(str(root / "tiny.yaml")), data, root / "run", device="cpu")


def job(root: Path, out: Path, bound: float, **changes: Any) -> Summary:
    """Do the job, of which paintings below `bound` are rejected."""
    asked = {**ASKED, "thresholds": Thresholds(bound), "data": root / "data", **changes}
    return paint(root / "run", out=out, **asked)


def middle_bound(root: Path) -> float:
    """A bound that half of the outputs do not reach at once."""
    job(root, root / "all", 0.0)
    found = sorted(float(row["mask_adherence"]) for row in read_manifest(root / "all" / "metadata.csv"))
    return (found[1] + found[2]) / 2


def tree(out: Path) -> dict[str, bytes]:
    """Every file of the pairs and of the rejected ones, but for the report, which says when it was made."""
    found = {}
    for name, folder in (("kept", out), ("rejected", rejected_folder(out))):
        for path in folder.rglob("*"):
            if path.is_file() and path.name != "report.html":
                found[f"{name}/{path.relative_to(folder)}"] = path.read_bytes()
    return found
