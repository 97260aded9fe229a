"""The check: a clean set has no findings, and each thing made wrong is found once."""

import csv
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.manifest import read_manifest, write_manifest
from msdm_kit.plugins.checking import SHOWN, check
from msdm_kit.plugins.checks.duplicates import NEAR, near_pairs
from msdm_kit.plugins.checks.finding import KINDS
from msdm_kit.plugins.checks.images import BITS, look, orientations, stain
from msdm_kit.plugins.checks.instances import owners, pieces
from msdm_kit.plugins.checks.report_file import finding_file
from msdm_kit.plugins.checks.stains import stain_findings
from msdm_kit.plugins.data import data_folder

from ..cells import cell_field, cell_folder, load, save


@pytest.fixture
def data(tmp_path):
    return cell_folder(tmp_path / "data")


def edit(path, change):
    array = load(path)
    changed = change(array)
    path.unlink()
    save(path, array if changed is None else changed)


def put(value, *places):
    """Set pixels of a mask."""

    def change(array):
        for place in places:
            array[place] = value

    return change


def rows(root, change):
    found = read_manifest(root / "metadata.csv")
    write_manifest(root / "metadata.csv", change(found) or found)


def columns(root, id, **values):
    rows(root, lambda all: next(row for row in all if row["id"] == id).update(values))


def without(root, column):
    rows(root, lambda all: [{k: v for k, v in row.items() if k != column} for row in all])


def image(root, id):
    return root / "images" / f"{id}.png"


def cells(root, id="f1"):
    return root / "cells" / f"{id}.png"


def nuclei(root, id="f1"):
    return root / "nuclei" / f"{id}.png"


def darker(array):
    return (array * 0.9).astype(np.uint8)


def stained(root):
    """A field of the same structure in another stain, by swapped channels."""
    edit(image(root, "f1"), lambda a: np.ascontiguousarray(a[..., [1, 0, 2]]))


def grow_rows(root):
    """Ten fields per assay, so that there is a rest to be far from."""
    rows(root, lambda all: [row.update(assay=row["patient"]) for row in all] and [
        {**row, "assay": "a" if row["id"] != "f9" else "b"} for row in all
    ])  # fmt: skip


def hashed(all):
    """A hash that is wrong, one that is not given, and a column that would lead out of the folder."""
    for row in all:
        row |= {"sha256_nuclei": "0" * 64 if row["id"] == "f1" else "", "sha256_../x": "1"}


CASES = {
    "missing-image": (lambda r: image(r, "f1").unlink(), "images/f1.png", "", "not there"),
    "missing-mask": (lambda r: cells(r).unlink(), "cells/f1.png", "", "not there"),
    "no-mask": (lambda r: (cells(r).unlink(), nuclei(r).unlink()), "images/f1.png", "", "cell, nucleus"),
    "several-files": (lambda r: shutil.copy(cells(r), r / "cells/f1.tif"), "cells/f1.png", "", "f1.tif"),
    "damaged-file": (lambda r: image(r, "f1").write_bytes(image(r, "f1").read_bytes()[:300]),
                     "images/f1.png", "", "is damaged"),
    "changed-file": (lambda r: rows(r, hashed), "nuclei/f1.png", "", "and 000000000000 in the row"),
    "image-type": (lambda r: edit(image(r, "f1"), lambda a: np.dstack([a, a[..., 0] | 255])),
                   "images/f1.png", "", "8-bit RGBA"),
    "mask-type": (lambda r: edit(cells(r), lambda a: np.dstack([a, a, a]).astype(np.uint8)),
                  "cells/f1.png", "", "8-bit RGB"),
    "size": (lambda r: edit(nuclei(r), lambda a: a[:-1]), "nuclei/f1.png", "", "47 x 48, image 48 x 48"),
    "empty-mask": (lambda r: edit(nuclei(r), np.zeros_like), "nuclei/f1.png", "", "every pixel is 0"),
    "one-label": (lambda r: edit(nuclei(r), lambda a: ((a > 0) * 255).astype(np.uint8)),
                  "nuclei/f1.png", "255", "one label in 4 pieces"),
    "leak-group": (lambda r: columns(r, "f9", patient="p1"), "metadata.csv", "patient", "'train' (f1)"),
    "leak-image": (lambda r: shutil.copy(image(r, "f1"), image(r, "f9")), "images/f9.png", "",
                   "split val; same in split train: images/f1.png"),
    "leak-near-image": (lambda r: save(image(r, "f9"), darker(np.rot90(load(image(r, "f1"))))),
                        "images/f9.png", "", "images/f1.png in split train"),
    "fragments": (lambda r: edit(cells(r), put(3, np.s_[:3, :4])), "cells/f1.png", "3", "2 pieces of"),
    "speck": (lambda r: edit(cells(r), put(9, np.s_[:3, :3])), "cells/f1.png", "9", "9 pixels"),
    "nucleus-without-cell": (lambda r: edit(nuclei(r), put(9, np.s_[:4, :4])), "nuclei/f1.png", "9",
                             "16 pixels, none in a cell"),
    "nucleus-outside-cell": (lambda r: edit(cells(r), lambda a: np.where((a == 2) & hole(a), 0, a)),
                             "nuclei/f1.png", "2", "pixels outside cell 2"),
    "nucleus-across-cells": (lambda r: edit(cells(r), lambda a: np.where((a == 2) & hole(a), 7, a)),
                             "nuclei/f1.png", "2", "pixels in others than cell 2"),
    "duplicate": (lambda r: shutil.copy(image(r, "f1"), image(r, "f3")), "images/f3.png", "", "same as"),
    "near-duplicate": (lambda r: save(image(r, "f3"), darker(load(image(r, "f1"))[:, ::-1])),
                       "images/f3.png", "", "of 256 bits from images/f1.png"),
    "unlisted-file": (lambda r: save(image(r, "g"), cell_field(99)["images"]), "images/g.png", "", "'g'"),
    "unfinished-job": (lambda r: (r / "job.json").write_text("{}"), "job.json", "", "no summary.json"),
    "missing-column": (lambda r: without(r, "indication"), "metadata.csv", "indication", "msdm reads it"),
    "empty-values": (lambda r: columns(r, "f2", indication=" "), "metadata.csv", "indication", "10 rows: f2"),
    "one-value": (lambda r: rows(r, lambda all: [row.update(indication="x") for row in all] and None),
                  "metadata.csv", "indication", "'x' in all 10 rows"),
    "stain": (lambda r: (grow_rows(r), stained(r)), "images/f1.png", "", "median"),
}  # fmt: skip


def hole(cells):
    """The lower half of cell 2, and so of its nucleus, less a little."""
    where = np.argwhere(cells == 2)
    return np.arange(cells.shape[0])[:, None] > where[:, 0].mean() + 1


def everything(root, **options):
    found = []
    report = check(root, sink=found.append, **options)
    assert sum(report.counts.values()) == len(found)
    return report, found


def test_a_clean_set_has_no_findings(data):
    report, found = everything(data)
    assert (report.fields, found, report.kinds) == (10, [], [])


def test_the_built_in_set_has_no_findings():
    report, found = everything(data_folder("histology-nuclei"))
    assert (report.fields, found) == (107, [])


def test_every_kind_is_tried():
    assert set(CASES) == set(KINDS)


@pytest.mark.parametrize("kind", CASES)
def test_each_thing_is_found_once(data, kind):
    make, file, instance, value = CASES[kind]
    make(data)
    report, found = everything(data)
    assert [(f.kind, f.file, f.instance) for f in found] == [(kind, file, instance)]
    assert value in found[0].value
    assert found[0].severity == KINDS[kind].severity
    assert (report.errors, report.warnings) == ((1, 0) if found[0].severity == "error" else (0, 1))
    assert report.first == {kind: found}


def test_specks_have_the_size_that_is_asked(data):
    edit(cells(data), put(9, np.s_[:3, :3]))
    assert check(data, speck=9).counts == {}
    assert check(data, speck=10).counts == {"speck": 1}


def test_only_the_first_are_kept_and_all_are_given(data):
    for i in range(29):
        edit(cells(data), put(100 + i, (0, i)))
    report, found = everything(data)
    assert report.counts["speck"] == 29
    assert len(report.first["speck"]) == SHOWN
    assert sum(f.kind == "speck" for f in found) == 29


def test_processes_find_the_same(data):
    for kind in ("fragments", "leak-near-image", "image-type"):
        CASES[kind][0](data)
    assert everything(data, workers=2)[1] == everything(data)[1]


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_all_findings_in_a_file(data, tmp_path, suffix):
    CASES["speck"][0](data)
    CASES["empty-values"][0](data)
    path = tmp_path / f"found{suffix}"
    with finding_file(path) as sink:
        _, found = everything(data)
        for finding in found:
            sink(finding)
    with open(path, encoding="utf-8", newline="") as handle:
        read = json.load(handle) if suffix == ".json" else list(csv.DictReader(handle))
    assert read == [finding.record() for finding in found]
    assert {r["kind"] for r in read} == {"speck", "empty-values"}


def test_a_file_that_is_not_finished_is_not_there(tmp_path):
    with pytest.raises(RuntimeError), finding_file(tmp_path / "found.json"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MsdmError, match=r"written to \.json"), finding_file(tmp_path / "found.txt"):
        pass


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda r: (r / "metadata.csv").unlink(), "is missing; write it"),
        (lambda r: shutil.rmtree(r / "images"), "images is missing"),
        (lambda r: (shutil.rmtree(r / "cells"), shutil.rmtree(r / "nuclei")), "has no folder of masks"),
    ],
)
def test_what_cannot_be_looked_up_is_an_error(data, make, says):
    make(data)
    with pytest.raises(MsdmError, match=says):
        check(data)


def test_pieces_touch_at_corners():
    labels = np.array([[1, 0, 1], [0, 1, 0], [2, 0, 2]])
    found = pieces(labels)
    assert sorted(zip(found.label[1:].tolist(), found.area[1:].tolist(), strict=True)) == [
        (1, 3),
        (2, 1),
        (2, 1),
    ]


def test_owners():
    nuclei = np.array([[1, 1, 1, 2, 2, 3, 4]])
    cells = np.array([[5, 5, 0, 7, 6, 0, 4]])
    assert owners(nuclei, cells) == {1: (5, 1, 0), 2: (6, 0, 1), 3: (0, 1, 0), 4: (4, 0, 0)}


TURNS = [lambda a: a, np.fliplr, np.flipud, np.rot90, lambda a: np.rot90(a, 2), lambda a: np.rot90(a, 3),
         lambda a: a.swapaxes(0, 1), lambda a: np.rot90(a.swapaxes(0, 1), 2)]  # fmt: skip


@pytest.mark.parametrize("turn", range(8))
def test_flips_and_turns_are_orientations_of_the_hash(turn):
    picture = cell_field(3)["images"]
    first = look(picture)
    turned = look(np.ascontiguousarray(TURNS[turn](picture)))
    apart = np.unpackbits(orientations(first[None])[:, 0] ^ turned, axis=-1).sum(axis=-1)
    assert (apart <= 2).sum() == 1, "signs of coefficients near 0 may be lost to rounding"


def test_the_hash_of_real_fields_tells_them_apart_and_stands_compression(tmp_path):
    folder = data_folder("histology-nuclei") / "images"
    pictures = [load(path) for path in sorted(folder.iterdir())[:20]]
    looks = np.array([look(p) for p in pictures])
    apart = np.unpackbits(orientations(looks)[:, :, None] ^ looks, axis=-1).sum(axis=-1).min(axis=0)
    assert apart[~np.eye(20, dtype=bool)].min() > 4 * NEAR
    for i, picture in enumerate(pictures):
        Image.fromarray(np.rot90(picture)).save(tmp_path / "a.jpg", quality=75)
        again = look(load(tmp_path / "a.jpg"))
        assert near_pairs(np.stack([looks[i], again]))[0][2] <= NEAR


def test_flat_images_have_no_look():
    assert look(np.full((40, 40, 3), 200, np.uint8)) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 30), st.integers(0, NEAR + 6))
def test_near_pairs_are_those_of_all_pairs(seed, count, flipped):
    rng = np.random.default_rng(seed)
    looks = rng.integers(0, 256, (count, BITS // 8), np.uint8)
    looks[:, 0] &= 127  # the bit of the mean
    bits = np.unpackbits(orientations(looks[:1])[int(rng.integers(8)), 0])
    bits[1 + rng.choice(BITS - 1, flipped, replace=False)] ^= 1
    looks[-1] = np.packbits(bits)
    apart = np.unpackbits(orientations(looks)[:, :, None] ^ looks[None], axis=-1).sum(axis=-1).min(axis=0)
    wanted = []
    for later in range(1, count):
        earlier = int(apart[later, :later].argmin())
        if apart[later, earlier] <= NEAR:
            wanted.append((earlier, later, int(apart[later, earlier])))
    assert near_pairs(looks) == wanted
    assert bool(wanted) == (flipped <= NEAR)


def test_a_stain_is_that_of_the_tissue():
    picture = np.full((20, 20, 3), 250, np.uint8)
    assert np.isnan(stain(picture)).all()
    picture[:10] = 99
    found = stain(picture)
    assert found[0] == pytest.approx(-np.log10(100 / 256), abs=1e-6)
    picture[10:] = 99
    np.testing.assert_allclose(stain(picture), found, rtol=1e-5)


def test_stains_are_compared_within_an_assay():
    rng = np.random.default_rng(0)
    stains = rng.normal(0.4, 0.02, (20, 4))
    stains[10:] += 1
    files = [f"{i}" for i in range(20)]
    assays = ["a"] * 10 + ["b"] * 10
    assert list(stain_findings(files, stains, assays)) == []
    stains[3, 1] += 1
    (found,) = stain_findings(files, stains, assays)
    assert (found.file, found.kind) == ("3", "stain")
    assert "haematoxylin" in found.value
    assert list(stain_findings(files[:7], stains[:7], assays[:7])) == []
