"""Masks that nobody annotated: the density and the eccentricity that were asked for, and sound masks."""

import csv

import numpy as np
import pytest

from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.images import read_labels, save_labels
from msdm_kit.core.manifest import write_manifest
from msdm_kit.core.seeds import rng_for
from msdm_kit.plugins.data import data_folder
from msdm_kit.plugins.mask_operations.units import in_one_piece
from msdm_kit.plugins.properties import Field, moment_properties, parse_property
from msdm_kit.plugins.shape_library import read_shapes
from msdm_kit.plugins.synthesis import Laid, Shapes, lay_out, synthesise


@pytest.fixture(scope="module")
def library():
    return read_shapes(data_folder("histology-nuclei"))


def test_shapes_are_whole_cells_with_their_nuclei(library):
    assert library.kinds == ("cell", "nucleus")
    assert len(library.shapes) > 100
    root = data_folder("histology-nuclei")
    for shape in library.shapes[::40]:
        labels = Field(root, {"id": shape.field}).labels("cell")
        mask = labels == shape.label
        assert not any(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
        found = moment_properties(mask.astype(int))
        assert found["eccentricity"][0] == pytest.approx(shape.eccentricity)
        assert found["area"][0] == shape.area == (shape.stamp.masks["cell"] > 0).sum()
        assert (shape.stamp.masks["cell"][shape.stamp.masks["nucleus"] > 0] > 0).all()


@pytest.mark.parametrize("wanted", [0.5, 0.65, 0.8, 0.9])
def test_weights_have_the_mean(library, wanted):
    weights = library.weights(wanted)
    assert weights.sum() == pytest.approx(1)
    assert weights @ library.eccentricities == pytest.approx(wanted, abs=1e-6)
    tilt = np.log(weights)
    slope = np.polyfit(library.eccentricities, tilt, 1)
    assert tilt == pytest.approx(np.polyval(slope, library.eccentricities), abs=1e-6), "exponential in e"
    drawn = [s.eccentricity for s in library.draw(weights, 60, rng_for("draw"))]
    assert np.mean(drawn) == pytest.approx(wanted, rel=0.02)


def test_all_are_drawn_alike_where_nothing_is_asked(library):
    assert np.ptp(library.weights(None)) == 0


@pytest.mark.parametrize("wanted", [0.0, 0.1, 0.9999, 1.5])
def test_what_the_library_cannot_give_names_the_range(library, wanted):
    low, high = library.range
    with pytest.raises(MsdmError, match=f"from {np.ceil(low * 1000) / 1000:.3f} to .*, not {wanted:g}"):
        library.weights(wanted)
    assert 0 < low < 0.3
    assert 0.9 < high < 1


@pytest.mark.parametrize(("density", "eccentricity"), [(350, 0.55), (500, 0.85), (620, 0.7)])
def test_density_and_eccentricity_are_met_within_5_percent(tmp_path, density, eccentricity):
    root, out = data_folder("histology-nuclei"), tmp_path / "out"
    done = synthesise(
        root, out, n=4, size=(320, 320), density=density, eccentricity=eccentricity, split="val", seed=3
    )
    measured = {"mean_cell_eccentricity": [], "density_cell": [], "count_nucleus": [], "count_cell": []}
    for row in FieldDataset(out, images=False).rows:
        one = Field(out, row)
        for name, values in measured.items():
            values.append(one.number(parse_property(name, ("cell", "nucleus"))))
    assert np.mean(measured["mean_cell_eccentricity"]) == pytest.approx(eccentricity, rel=0.05)
    assert np.mean(measured["density_cell"]) == pytest.approx(density, rel=0.05)
    assert measured["count_nucleus"] == measured["count_cell"]
    assert done.eccentricity == pytest.approx(measured["mean_cell_eccentricity"])
    assert done.density == pytest.approx(np.mean(measured["density_cell"]))
    assert done.short == []


def test_layouts_are_sound(library):
    layout = lay_out(library, library.weights(0.8), (200, 170), 20, rng_for(0))
    cell, nucleus = layout.masks["cell"], layout.masks["nucleus"]
    assert cell.shape == nucleus.shape == (200, 170)
    assert cell.dtype == nucleus.dtype == np.int32
    assert len(layout.placed) == 20
    assert set(np.unique(cell)) == {0, *(label for label, _ in layout.placed)}
    np.testing.assert_array_equal(nucleus[nucleus > 0], cell[nucleus > 0])
    assert set(np.unique(nucleus)) == set(np.unique(cell))
    # no pixel is lost to another shape: off the border, the area is that of the source but for turns
    for label, shape in layout.placed:
        mask = cell == label
        if not any(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1])):
            assert in_one_piece(mask)
            assert mask.sum() == pytest.approx(shape.area, rel=0.08, abs=6)
            turned = moment_properties(mask.astype(int))["eccentricity"][0]
            assert turned == pytest.approx(shape.eccentricity, abs=0.12)


def test_what_does_not_fit_is_said(library, tmp_path):
    layout = lay_out(library, library.weights(None), (64, 64), 60, rng_for(0))
    assert 3 < len(layout.placed) < 60
    assert len(np.unique(layout.masks["cell"])) == len(layout.placed) + 1
    root = data_folder("histology-nuclei")
    done = synthesise(root, tmp_path / "out", n=2, size=(64, 64), density=10_000, split="val")
    assert done.asked == 82, "of 81.92"
    assert 3 < done.placed < 82
    assert done.short == ["synth_0_00001", "synth_0_00002"]


def test_few_instances_have_the_density_too(tmp_path):
    done = synthesise(
        data_folder("histology-nuclei"), tmp_path / "out", n=6, size=(128, 128), density=90, split="val"
    )
    assert done.density == pytest.approx(90, rel=0.05)


def test_several_processes_give_the_same(tmp_path):
    ids = ["dsb18_6c67b78e", "dsb18_00ae65c1"]
    settings = {"n": 3, "size": (96, 80), "eccentricity": 0.8, "ids": ids}
    for name, workers in (("one", 1), ("two", 2)):
        synthesise(data_folder("histology-nuclei"), tmp_path / name, workers=workers, **settings)
    one, two = (
        {
            p.relative_to(tmp_path / name): p.read_bytes()
            for p in (tmp_path / name).rglob("*.*")
            if p.is_file()
        }
        for name in ("one", "two")
    )
    assert len(one) == 8
    assert one == two


def test_a_field_depends_on_its_number_and_the_seed(tmp_path):
    root = data_folder("histology-nuclei")
    events = []

    def made(name, **settings):
        folder = tmp_path / name
        settings = {"n": 2, "size": (96, 80), "split": "val", "eccentricity": 0.8, **settings}
        synthesise(root, folder, listener=events.append, **settings)
        return [read_labels(path) for path in sorted((folder / "cells").iterdir())]

    first, again, longer, other = made("a"), made("b"), made("c", n=3), made("d", seed=1)
    assert isinstance(events[0], Shapes)
    assert events[1:3] == [Laid(1, 2), Laid(2, 2)]
    for k in range(2):
        np.testing.assert_array_equal(first[k], again[k])
        np.testing.assert_array_equal(first[k], longer[k])
        assert (first[k] != other[k]).any()
    assert (tmp_path / "a" / "metadata.csv").read_bytes() == (tmp_path / "b" / "metadata.csv").read_bytes()
    with (tmp_path / "a" / "shapes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(np.unique(labels)) - 1 for labels in first)
    sources = {row["source"] for row in rows}
    assert sources <= {row["id"] for row in FieldDataset(root, split="val").rows}


def test_a_set_of_one_kind(tmp_path):
    labels = np.zeros((60, 60), np.uint16)
    labels[10:20, 10:16], labels[30:36, 40:50], labels[0:9, 40:50] = 5, 900, 7
    save_labels(tmp_path / "in" / "gland" / "a.png", labels)
    write_manifest(tmp_path / "in" / "metadata.csv", [{"id": "a"}])
    library = read_shapes(tmp_path / "in")
    assert [(s.label, s.area) for s in library.shapes] == [(5, 60), (900, 60)]
    assert library.density == pytest.approx(3 / 3600 * 1e6)
    assert synthesise(tmp_path / "in", tmp_path / "out", n=1, size=(64, 64), density=1500).placed == 6
    save_labels(tmp_path / "in" / "duct" / "a.png", labels)
    with pytest.raises(MsdmError, match="mask kinds duct, gland"):
        read_shapes(tmp_path / "in")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "give at least 1"),
        ({"size": (15, 64)}, "16x16 to 16384x16384"),
        ({"size": (64, 10**6)}, "16x16 to 16384x16384"),
        ({"density": 0.0}, "above 0"),
        ({"density": 20.0}, "choose another density or size"),
        ({"density": 1e6, "size": (300, 300)}, "legal are 1 to 65535"),
        ({"eccentricity": 1.2}, "give a mean eccentricity from"),
        ({"split": "vall"}, "did you mean 'val'"),
        ({"ids": ["nobody"]}, "no field 'nobody'"),
    ],
)
def test_mistakes_leave_nothing(tmp_path, settings, message):
    with pytest.raises(MsdmError, match=message) as caught:
        synthesise(
            data_folder("histology-nuclei"),
            tmp_path / "out",
            **{"n": 1, "size": (64, 64), "split": "val", **settings},
        )
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
