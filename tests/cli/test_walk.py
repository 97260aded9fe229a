"""The README's path from another tool's files to a training set for Cellpose, command by command."""

import csv
import os
import runpy
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msdm_kit import data_folder

CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[2]))
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
BLOCK = runpy.run_path(str(CHECKOUT / ".ci" / "readme_block.py"))["blocks"](README)[2][1]
COMMANDS = [shlex.split(line) for line in BLOCK.replace("\\\n", " ").splitlines()]
SIDE = 64
# id: split, semi-axes of its nuclei. Eccentricities 0.943 of 12 x 4, 0 of 7 x 7.
FIELDS = {
    "long_a": ("train", (12, 4)),
    "long_b": ("train", (4, 12)),
    "long_c": ("train", (12, 4)),
    "round_a": ("train", (7, 7)),
    "round_b": ("train", (7, 7)),
    "long_elsewhere": ("test", (12, 4)),
}
SELECTED = {"long_a", "long_b", "long_c"}


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def load(path):
    return np.asarray(Image.open(path))


@pytest.fixture
def small(tmp_path):
    """A set of six fields with two nuclei each, numbered with a gap; every field has an assay of its own."""
    folder = tmp_path / "small"
    for name in ("images", "nuclei"):
        (folder / name).mkdir(parents=True)
    y, x = np.mgrid[:SIDE, :SIDE]
    lines = ["id,split,assay,indication"]
    for k, (id, (split, (a, b))) in enumerate(FIELDS.items()):
        labels = np.zeros((SIDE, SIDE), np.uint16)
        for label, centre in ((3, (17 + k, 18)), (7, (43, 40 + k))):
            labels[((y - centre[0]) / a) ** 2 + ((x - centre[1]) / b) ** 2 <= 1] = label
        noise = np.random.default_rng(k).integers(-8, 9, (SIDE, SIDE, 3))
        image = (
            np.where(labels[..., None] > 0, (90 + 12 * k, 60, 140 - 9 * k), (225, 215 - 9 * k, 230)) + noise
        )
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{id}.png")
        Image.fromarray(labels).save(folder / "nuclei" / f"{id}.png")
        lines.append(f"{id},{split},stain {k},tissue {k}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_walk_is_seven_commands():
    words = [" ".join(w for w in command[1:3] if w in ("data", "sample")) for command in COMMANDS]
    assert [command[0] for command in COMMANDS] == ["msdm-kit"] * 7
    assert words == ["data", "data", "data", "data", "data", "sample", "data"]
    names = [command[2] for command in COMMANDS if command[1] == "data"]
    assert names == ["export", "import", "check", "derive-cells", "select", "export"]


def test_the_walk_ends_with_pairs_for_cellpose(msdm, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = []
    for command in COMMANDS:
        words = [str(small) if word == "histology-nuclei" else word for word in command[1:]]
        outcome = msdm(*words, *(["--steps", "1", "--device", "cpu"] if words[0] == "sample" else []))
        assert (outcome.code, outcome.err) == (0, ""), words
        printed.append(outcome.out)
    assert "5 fields of format stardist" in printed[1]
    assert "5 fields: 0 errors" in printed[2]
    assert "3 of 5 fields match" in printed[4]

    lab, painted, training = (Path("out") / name for name in ("lab", "elongated", "for-cellpose"))
    fields = rows(lab / "metadata.csv")
    assert set(fields) == {id for id, (split, _) in FIELDS.items() if split == "train"}
    for id, row in fields.items():
        nuclei, cells = load(lab / f"nuclei/{id}.png"), load(lab / f"cells/{id}.png")
        source = load(small / f"nuclei/{id}.png")
        np.testing.assert_array_equal(load(lab / f"images/{id}.png"), load(small / f"images/{id}.png"))
        np.testing.assert_array_equal(nuclei, np.searchsorted([0, 3, 7], source))
        np.testing.assert_array_equal(cells[nuclei > 0], nuclei[nuclei > 0])
        assert (cells > 0).sum() > (nuclei > 0).sum()
        assert row["cells_derived"] == "1"
    assert set(rows("out/elongated.csv")) == SELECTED

    pairs = rows(painted / "metadata.csv")
    assert Counter(row["source_morphology"] for row in pairs.values()) == dict.fromkeys(SELECTED, 8)
    for id, row in pairs.items():
        masks, donor = row["source_morphology"], row["source_appearance"]
        assert donor in SELECTED - {masks}
        assert row["source_metadata"] == donor
        assert row["assay"] == fields[donor]["assay"]
        image = load(painted / f"images/{id}.png")
        for kind in ("nuclei", "cells"):
            np.testing.assert_array_equal(
                load(painted / kind / f"{id}.png"), load(lab / kind / f"{masks}.png")
            )
        np.testing.assert_array_equal(load(training / f"{id}.tif"), image)
        np.testing.assert_array_equal(load(training / f"{id}_masks.tif"), load(lab / f"nuclei/{masks}.png"))
    assert len(list(training.glob("*.tif"))) == 2 * len(pairs) == 48
    assert len({(painted / f"images/{id}.png").read_bytes() for id in pairs}) == 24


def test_what_the_walk_finds_in_the_built_in_set(msdm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS[:5]:
        outcome = msdm(*command[1:])
        assert (outcome.code, outcome.err) == (0, ""), command
    assert "6 of 63 fields match" in outcome.out
    # the built-in set's cells were derived in the same way, so they come back
    builtin = data_folder("histology-nuclei")
    for id in rows("out/elongated.csv"):
        cells, wanted = load(f"out/lab/cells/{id}.png"), load(builtin / f"cells/{id}.png")
        assert ((cells > 0) == (wanted > 0)).all()
        assert len(np.unique(np.stack([cells, wanted]).reshape(2, -1), axis=1).T) == cells.max() + 1
