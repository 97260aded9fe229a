"""The repair: a copy without errors, a log of every change, and the source as it was."""

import csv
import hashlib
import shutil

import numpy as np
import pytest
from PIL import Image

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.manifest import read_manifest
from msdm_kit.plugins.checking import check
from msdm_kit.plugins.instances import InstanceFile, read_instances
from msdm_kit.plugins.repairing import COLUMNS, repair

from ..cells import cell_folder, load, save
from .test_checking import CASES, cells, edit, image, nuclei, put


@pytest.fixture
def data(tmp_path):
    return cell_folder(tmp_path / "data")


def hashes(root):
    return {p: hashlib.sha256(p.read_bytes()).digest() for p in sorted(root.rglob("*")) if p.is_file()}


def changes(out):
    with open(out / "changes.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle))
    assert tuple(rows[0]) == COLUMNS
    return rows[1:]


REPAIRED = {
    "missing-image": ["f1", "images/f1.png", "", "field left out", "missing-image: not there"],
    "no-mask": ["f1", "images/f1.png", "", "field left out", "no-mask"],
    "several-files": ["f1", "cells/f1.png", "", "field left out", "several-files"],
    "damaged-file": ["f1", "images/f1.png", "", "field left out", "damaged-file"],
    "image-type": ["f1", "images/f1.png", "", "converted to RGB", "8-bit RGBA"],
    "mask-type": ["f1", "cells/f1.png", "", "converted to uint16 labels", "8-bit RGB"],
    "size": ["f1", "nuclei/f1.png", "", "field left out", "size"],
    "empty-mask": ["f1", "nuclei/f1.png", "", "mask left out", "no instance"],
    "fragments": ["f1", "cells/f1.png", "3", "pieces dropped", "1 of 12 pixels"],
    "speck": ["f1", "cells/f1.png", "9", "speck dropped", "9 pixels"],
    "nucleus-without-cell": ["f1", "nuclei/f1.png", "9", "nucleus dropped", "no cell"],
    "nucleus-outside-cell": ["f1", "nuclei/f1.png", "2", "nucleus cut", "pixels out of cell 2"],
    "nucleus-across-cells": ["f1", "nuclei/f1.png", "2", "nucleus cut", "pixels out of cell 2"],
}


@pytest.mark.parametrize("kind", REPAIRED)
def test_after_a_repair_nothing_is_left(data, tmp_path, kind):
    CASES[kind][0](data)
    before = hashes(data)
    done = repair(data, tmp_path / "out")
    assert hashes(data) == before
    (change,) = changes(tmp_path / "out")
    assert change[:4] == REPAIRED[kind][:4]
    assert change[4].find(REPAIRED[kind][4]) >= 0
    assert done.changes == {REPAIRED[kind][3]: 1}
    left_out = REPAIRED[kind][3] == "field left out"
    assert (done.fields, done.left_out) == (10 - left_out, int(left_out))
    counts = check(tmp_path / "out").counts
    assert counts == ({"missing-mask": 1} if kind == "empty-mask" else {})


def test_a_clean_set_is_copied(data, tmp_path):
    done = repair(data, tmp_path / "out", workers=2)
    assert (done.fields, done.changes, changes(tmp_path / "out")) == (10, {}, [])
    assert read_manifest(tmp_path / "out/metadata.csv") == read_manifest(data / "metadata.csv")
    for path in data.rglob("*.png"):
        assert np.array_equal(load(path), load(tmp_path / "out" / path.relative_to(data)))


def test_foreground_becomes_instances(data, tmp_path):
    CASES["one-label"][0](data)
    before = load(nuclei(data))
    repair(data, tmp_path / "out")
    after = load(nuclei(tmp_path / "out"))
    assert after.dtype == np.uint16
    assert len(np.unique(after)) == 5
    assert np.array_equal(after > 0, before > 0)
    assert check(tmp_path / "out").counts == {}


def test_a_large_piece_is_an_instance_of_the_same_class(data, tmp_path):
    edit(nuclei(data), lambda a: np.where(a == 4, 3, a))  # 3 and 4 become one, in two pieces
    with InstanceFile(data) as file:
        file.add("f1", {"nucleus": {1: "round", 3: "long"}})
    repair(data, tmp_path / "out")
    after = load(nuclei(tmp_path / "out"))
    assert np.unique(after).tolist() == [0, 1, 2, 3, 5]
    assert read_instances(tmp_path / "out") == {"f1": {"nucleus": {1: "round", 3: "long", 5: "long"}}}
    (change,) = changes(tmp_path / "out")
    assert change[1:4] == ["nuclei/f1.png", "3", "piece numbered"]


def test_classes_of_what_is_gone_are_gone(data, tmp_path):
    CASES["speck"][0](data)
    with InstanceFile(data) as file:
        file.add("f1", {"cell": {9: "dirt", 2: "cell"}})
    repair(data, tmp_path / "out")
    assert read_instances(tmp_path / "out") == {"f1": {"cell": {2: "cell"}}}


def test_cells_are_mended_before_their_nuclei(data, tmp_path):
    """Cell 1 becomes a speck: it goes, and its nucleus with it."""
    where = np.argwhere(load(nuclei(data)) == 1)[0]
    edit(cells(data), lambda a: np.where(a == 1, 0, a))
    edit(cells(data), put(1, tuple(where)))
    repair(data, tmp_path / "out")
    assert [row[3] for row in changes(tmp_path / "out")] == ["speck dropped", "nucleus dropped"]
    assert np.unique(load(nuclei(tmp_path / "out"))).tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda p: p.convert("L"), lambda a: np.asarray(Image.fromarray(a).convert("L").convert("RGB"))),
        (lambda p: p.quantize(256), None),
        (
            lambda p: Image.merge("RGBA", (*p.split(), Image.new("L", p.size, 0))),
            lambda a: np.full_like(a, 255),
        ),
    ],
)
def test_pictures_become_rgb(data, tmp_path, make, wanted):
    before = load(image(data, "f1"))
    made = make(Image.fromarray(before))
    made.save(image(data, "f1"))
    repair(data, tmp_path / "out")
    after = load(image(tmp_path / "out", "f1"))
    assert np.array_equal(after, np.asarray(made.convert("RGB")) if wanted is None else wanted(before))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_labels_of_other_types_become_uint16(data, tmp_path, dtype):
    before = load(nuclei(data))
    nuclei(data).unlink()
    save(data / "nuclei/f1.tif", np.where(before > 0, before.astype(np.int64) + 70000, 0).astype(dtype))
    repair(data, tmp_path / "out")
    after = load(nuclei(tmp_path / "out"))
    assert after.dtype == np.uint16
    assert len(np.unique(after)) == 5
    assert np.array_equal(after > 0, before > 0)
    assert "relabelled" in [row[3] for row in changes(tmp_path / "out")]
    assert check(tmp_path / "out").counts == {}


@pytest.mark.parametrize(
    ("folder", "array"),
    [
        ("images", np.zeros((48, 48), np.uint16)),
        ("nuclei", np.random.default_rng(0).integers(0, 255, (48, 48, 3), np.uint8)),
        ("nuclei", np.full((48, 48), 0.5, np.float32)),
        ("nuclei", np.full((48, 48), np.nan, np.float32)),
        ("nuclei", np.full((48, 48), 1e30, np.float32)),
        ("nuclei", np.full((48, 48), -1, np.int32)),
    ],
)
def test_what_would_be_guessed_is_left_out(data, tmp_path, folder, array):
    (data / folder / "f1.png").unlink()
    save(data / folder / "f1.tif", array)
    assert repair(data, tmp_path / "out").left_out == 1
    assert "f1" not in [row["id"] for row in read_manifest(tmp_path / "out/metadata.csv")]


def test_leaks_are_left_for_the_user(data, tmp_path):
    CASES["leak-image"][0](data)
    assert repair(data, tmp_path / "out").changes == {}
    assert check(tmp_path / "out").counts == {"leak-image": 1}


def test_nothing_is_left_of_what_fails(data, tmp_path):
    with pytest.raises(MsdmError, match="lies in"):
        repair(data, data / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    with pytest.raises(MsdmError, match="not an empty folder"):
        repair(data, tmp_path / "full")
    shutil.rmtree(data / "images")
    (data / "images").mkdir()
    with pytest.raises(MsdmError, match="no field of"):
        repair(data, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "full"]
