"""Cells from nuclei: no overlap, nuclei inside, no farther than asked; the built-in set's own come out."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import distance_transform_edt

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.manifest import read_manifest, write_manifest
from msdm_kit.plugins.data import data_folder
from msdm_kit.plugins.derive_cells import default_distance, derive_cells, expand
from msdm_kit.plugins.instances import InstanceFile, read_instances

from ..cells import cell_folder, load


@pytest.fixture
def data(tmp_path):
    root = cell_folder(tmp_path / "data", 4)
    shutil.rmtree(root / "cells")
    return root


def test_two_pixels_grow_to_the_middle():
    nuclei = np.zeros((1, 12), np.uint16)
    nuclei[0, 2], nuclei[0, 8] = 7, 3
    assert expand(nuclei, 2).tolist() == [[7, 7, 7, 7, 7, 0, 3, 3, 3, 3, 3, 0]]
    assert expand(nuclei, 1.5).tolist() == [[0, 7, 7, 7, 0, 0, 0, 3, 3, 3, 0, 0]]
    grown = expand(nuclei, 9)[0]
    assert grown[:5].tolist() == [7] * 5
    assert grown[6:].tolist() == [3] * 6


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.uint16,
        st.tuples(st.integers(1, 16), st.integers(1, 16)),
        elements=st.sampled_from([0, 0, 0, 0, 0, 1, 2, 65535]),
    ),
    st.floats(0.5, 9),
)
def test_cells_hold_their_nuclei_and_reach_no_farther(nuclei, distance):
    cells = expand(nuclei, distance)
    assert np.array_equal(cells[nuclei > 0], nuclei[nuclei > 0])
    assert set(np.unique(cells)) == set(np.unique(nuclei)) or not (cells == 0).any()
    if not nuclei.any():
        assert not cells.any()
        return
    nearest = distance_transform_edt(nuclei == 0)
    assert np.array_equal(cells > 0, nearest <= distance)
    for label in np.unique(cells[cells > 0]):
        own = distance_transform_edt(nuclei != label)
        assert (own[cells == label] <= nearest[cells == label] + 1e-9).all(), "each pixel goes to the nearest"


@pytest.mark.parametrize(("diameter", "pixels"), [(1, 2), (10, 3), (20, 6), (90, 12)])
def test_the_default_distance(diameter, pixels):
    assert default_distance(np.array([1.0, diameter, 500.0])) == pixels


def test_the_built_in_sets_cells_come_out(tmp_path):
    source = data_folder("histology-nuclei")
    rows = [row for row in read_manifest(source / "metadata.csv") if row["slide"] in ("white-03", "white-01")]
    write_manifest(tmp_path / "data/metadata.csv", rows)
    for folder in ("images", "nuclei"):
        (tmp_path / "data" / folder).mkdir()
        for row in rows:
            shutil.copy(source / folder / f"{row['id']}.png", tmp_path / "data" / folder)
    derive_cells(tmp_path / "data", tmp_path / "out")
    made = read_manifest(tmp_path / "out/metadata.csv")
    assert len({row["cell_expand_px"] for row in made}) == 2
    for row, old in zip(made, rows, strict=True):
        assert row == {**old, "cells_derived": "1"}
        name = f"cells/{row['id']}.png"
        assert np.array_equal(load(tmp_path / "out" / name), load(source / name))


def test_a_folder(data, tmp_path):
    with InstanceFile(data) as file:
        file.add("f1", {"nucleus": {2: "round"}})
    seen = []
    done = derive_cells(
        data,
        tmp_path / "out",
        distance=2,
        workers=2,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert (done.fields, done.cells, done.distances) == (4, 16, (2, 2))
    assert seen == [(k, 4) for k in range(5)]
    assert read_instances(tmp_path / "out") == {"f1": {"nucleus": {2: "round"}, "cell": {2: "round"}}}
    for row in read_manifest(tmp_path / "out/metadata.csv"):
        assert (row["cells_derived"], row["cell_expand_px"]) == ("1", "2")
        nuclei = load(data / "nuclei" / f"{row['id']}.png")
        assert np.array_equal(load(tmp_path / "out/nuclei" / f"{row['id']}.png"), nuclei)
        assert np.array_equal(load(tmp_path / "out/cells" / f"{row['id']}.png"), expand(nuclei, 2))


def test_masks_without_images(data, tmp_path):
    (data / "images/f2.png").unlink()
    derive_cells(data, tmp_path / "some", distance=2)
    assert sorted(p.stem for p in (tmp_path / "some/images").iterdir()) == ["f0", "f1", "f3"]
    shutil.rmtree(data / "images")
    assert derive_cells(data, tmp_path / "none", distance=2).cells == 16
    assert sorted(p.name for p in (tmp_path / "none").iterdir()) == ["cells", "metadata.csv", "nuclei"]
    for name in ("some", "none"):
        assert np.array_equal(load(tmp_path / name / "cells/f2.png"), expand(load(data / "nuclei/f2.png"), 2))


def test_progress_counts_fields_that_are_measured_first_twice(data, tmp_path):
    seen = []
    derive_cells(data, tmp_path / "out", on_progress=lambda *now: seen.append(now))
    assert list(dict.fromkeys(seen)) == [(k, 8) for k in range(9)]


def test_what_cannot_be_derived(data, tmp_path):
    for distance in (0, -1, float("nan"), float("inf")):
        with pytest.raises(MsdmError, match="grows no cells"):
            derive_cells(data, tmp_path / "out", distance=distance)
    (data / "nuclei/f2.png").write_bytes(b"no picture")
    with pytest.raises(MsdmError, match=r"nuclei/f2\.png"):
        derive_cells(data, tmp_path / "out", distance=3)
    shutil.move(data / "nuclei", data / "cells")
    with pytest.raises(MsdmError, match="has cells in cells/"):
        derive_cells(data, tmp_path / "out")
    shutil.move(data / "cells", data / "gland")
    with pytest.raises(MsdmError, match="has no nuclei"):
        derive_cells(data, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
