"""What docs/exactness.md says is the same bit for bit on a CPU, where no other test holds it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from msdm_kit.core.checkpoint import load_tensors
from msdm_kit.core.dataset import FieldDataset
from msdm_kit.plugins.pipeline import Pipeline
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.run import Run
from msdm_kit.plugins.training import train

from ..toy import toy_folder

IDS, SPLITS = ["a", "b", "c", "d"], ["train", "train", "train", "val"]
TOY = [
    "backbone={channels: 16, multipliers: [1, 2], blocks: 1, head_channels: 8, groups: 8}",
    "injectors.0.hidden=8",
    "data.crop=16",
    "train={steps: 2, batch: 4, workers: 0, precision: fp32}",
    "sample={steps: 2, precision: fp32}",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("data"), IDS, SPLITS)


def one(data: Path, out: Path, *overrides: str) -> dict[str, str]:
    """Train a run, paint its fields; hashes of the weights, the losses and the pictures."""
    recipe = load_recipe("quickstart", [*TOY, *overrides])
    run = Run(train(recipe, data, out, device="cpu"))
    tensors, _ = load_tensors(run.weights)
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    losses = [json.loads(line).get("loss") for line in run.metrics.read_text().splitlines()]
    pictures = painted(run.folder, data)
    return {
        "weights": found.hexdigest(),
        "losses": str(losses),
        **{f"picture {id}": hashlib.sha256(p.tobytes()).hexdigest() for id, p in sorted(pictures.items())},
    }


def painted(run: Path, data: Path, reverse: bool = False) -> dict[str, np.ndarray]:
    dataset = FieldDataset(data)
    fields = [dataset[i] for i in range(len(dataset))]
    pipeline = Pipeline.load(run, device="cpu")
    return {s.id: s.image for s in pipeline.sample(fields[::-1] if reverse else fields, guidance=1.5)}


@pytest.fixture(scope="module")
def known(data, tmp_path_factory):
    """A run of this process, in one thread, and what it found."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("known") / "run"
    yield folder, one(data, folder)
    torch.set_num_threads(before)


def test_another_process_with_other_hashes_of_strings(data, known, tmp_path):
    script = (
        "import json, sys, torch; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1])\n"  # the tests may be elsewhere than the package
        "from tests.plugins.test_determinism import one\n"
        "sys.path.pop(0)\n"
        "torch.set_num_threads(1)\n"
        "print(json.dumps(one(Path(sys.argv[2]), Path(sys.argv[3]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, Path(__file__).parents[2], data, tmp_path / "run"],
        env={**os.environ, "PYTHONHASHSEED": "4242", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == known[1]


def test_the_order_of_fields_changes_no_picture(data, known):
    forth, back = (painted(known[0], data, reverse) for reverse in (False, True))
    assert list(forth) == list(back)[::-1]
    for id in IDS:
        np.testing.assert_array_equal(forth[id], back[id])


def test_a_step_in_more_passes_is_the_same_but_for_rounding(data, known, tmp_path):
    other = Run(
        train(
            load_recipe("quickstart", [*TOY, "train.batch=2", "train.accumulate=2"]),
            data,
            tmp_path / "run",
            device="cpu",
        )
    )
    (a, _), (b, _) = (load_tensors(run.weights) for run in (Run(known[0]), other))
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=0, atol=2e-3)  # Adam's first steps are of size lr
    first, second = (
        [json.loads(line).get("loss") for line in run.metrics.read_text().splitlines()]
        for run in (Run(known[0]), other)
    )
    assert first[0] == pytest.approx(second[0], rel=1e-5)


def test_threads_change_pictures_by_rounding_alone(data, known):
    torch.set_num_threads(2)
    try:
        two = painted(known[0], data)
    finally:
        torch.set_num_threads(1)
    one_thread = painted(known[0], data)
    for id in IDS:
        np.testing.assert_allclose(two[id], one_thread[id], rtol=0, atol=1e-4)
