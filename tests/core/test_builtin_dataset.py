"""The data set that comes with the package."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

import msdm_kit
from msdm_kit.core.dataset import FieldDataset

ROOT = Path(msdm_kit.__file__).parent / "plugins" / "datasets" / "histology-nuclei"


@pytest.fixture(scope="module")
def data():
    return FieldDataset(ROOT)


def test_fields_and_splits(data):
    assert len(data) == 107
    assert Counter(row["split"] for row in data.rows) == {
        "train": 63,
        "val": 12,
        "test_mixed": 20,
        "test_columnar": 12,
    }
    assert set(data.sizes) == {(256, 320)}


def test_no_slide_lies_in_two_splits(data):
    splits = defaultdict(set)
    for row in data.rows:
        splits[row["slide"]].add(row["split"])
    assert len(splits) == 27
    assert all(len(found) == 1 for found in splits.values())


def test_instances_are_as_many_as_the_manifest_says(data):
    for sample in data:
        assert len(np.unique(sample.masks["nucleus"])) == int(sample.metadata["n_nuclei"]) + 1
        assert len(np.unique(sample.masks["cell"])) == int(sample.metadata["n_cells"]) + 1


def test_cell_k_holds_nucleus_k(data):
    for sample in data:
        inside = sample.masks["nucleus"] > 0
        assert np.array_equal(sample.masks["cell"][inside], sample.masks["nucleus"][inside])


def test_the_licence_lies_beside_the_data():
    assert "CC0 1.0 Universal" in (ROOT / "LICENSE").read_text(encoding="utf-8")
