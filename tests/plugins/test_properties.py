"""Properties of instances and fields: known answers, scikit-image's numbers, read only when asked for."""

import math
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage.measure import regionprops_table

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.fields import mask_kinds
from msdm_kit.core.images import save_labels
from msdm_kit.plugins.properties import (
    INSTANCE_PROPERTIES,
    MOMENT_PROPERTIES,
    Field,
    instance_properties,
    moment_properties,
    parse_property,
    property_names,
)

from ..toy import toy_folder

KINDS = ("cell", "nucleus")


def test_a_rectangle():
    labels = np.zeros((20, 30), np.uint16)
    labels[2:6, 5:17] = 9  # 4 rows, 12 columns
    found = {name: instance_properties(labels, name) for name in INSTANCE_PROPERTIES}
    assert found["area"].tolist() == found["area_bbox"].tolist() == [48]
    assert found["extent"].tolist() == found["solidity"].tolist() == [1]
    # second moments of n pixels in a row: (n^2 - 1) / 12
    assert found["axis_major_length"][0] == pytest.approx(4 * math.sqrt(143 / 12))
    assert found["axis_minor_length"][0] == pytest.approx(4 * math.sqrt(15 / 12))
    assert found["eccentricity"][0] == pytest.approx(math.sqrt(1 - 15 / 143))
    assert found["equivalent_diameter_area"][0] == pytest.approx(math.sqrt(4 * 48 / math.pi))
    assert abs(found["orientation"][0]) == pytest.approx(math.pi / 2)
    assert found["perimeter"][0] == 28


def test_eccentricity_is_equation_3_of_the_paper():
    y, x = np.mgrid[:81, :161]
    labels = ((x - 80) ** 2 / 60**2 + (y - 40) ** 2 / 30**2 <= 1).astype(np.uint16)
    assert instance_properties(labels, "eccentricity")[0] == pytest.approx(math.sqrt(1 - 0.25), abs=2e-3)
    line, dot = np.zeros((2, 9, 9), np.uint16)
    line[4, 2:7], dot[4, 4] = 1, 1
    assert instance_properties(line, "eccentricity").tolist() == [1]
    assert instance_properties(dot, "eccentricity").tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.int32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 4)))
def test_moments_are_those_of_scikit_image(labels):
    found = moment_properties(labels)
    if not labels.any():
        assert all(values.shape == (0,) for values in found.values())
        return
    # isotropic instances have no orientation: the sign of a rounding error decides
    wanted = regionprops_table(labels, properties=MOMENT_PROPERTIES)
    for name in set(MOMENT_PROPERTIES) - {"orientation"}:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-6, atol=1e-6, err_msg=name)
    long = wanted["eccentricity"] > 0.1
    turned = found["orientation"] - wanted["orientation"]
    np.testing.assert_allclose(np.sin(turned[long]), 0, atol=1e-6)


def test_labels_far_apart():
    labels = np.zeros((4, 4), np.int64)
    labels[0, 0], labels[2:, 2:] = 3, 2**40
    assert moment_properties(labels)["area"].tolist() == [1, 4]


def test_an_unknown_property():
    with pytest.raises(MsdmError, match="did you mean 'eccentricity'"):
        instance_properties(np.ones((2, 2), np.uint8), "excentricity")


@pytest.fixture
def field(tmp_path):
    root = toy_folder(tmp_path, ["a"])
    cells, nuclei = np.zeros((40, 40), np.uint16), np.zeros((40, 40), np.uint16)
    cells[0:10, 0:10], cells[20:24, 0:20], nuclei[2:6, 2:7] = 4, 7, 4
    save_labels(root / "cells" / "a.png", cells)
    save_labels(root / "nuclei" / "a.png", nuclei)
    return Field(root, {"id": "a"})


def number(field, name):
    wanted = parse_property(name, KINDS)
    assert wanted is not None, name
    return field.number(wanted)


def test_properties_of_a_field(field):
    wanted = {
        "height": 40, "width": 40, "count_cell": 2, "count_nucleus": 1,
        "density_cell": 2 / 1600 * 1e6, "fraction_cell_foreground": 180 / 1600,
        "nucleus_cell_ratio": 20 / 180, "mean_cell_area": 90, "std_cell_area": 10, "max_cell_area": 100,
        "min_cell_area": 80, "median_cell_area": 90, "mean_nucleus_solidity": 1,
        "mean_cell_eccentricity": (0 + math.sqrt(1 - 15 / 399)) / 2,
    }  # fmt: skip
    assert {name: number(field, name) for name in wanted} == pytest.approx(wanted)


def test_no_instances(field):
    save_labels(field.root / "nuclei" / "a.png", np.zeros((40, 40), np.uint16))
    assert number(field, "count_nucleus") == number(field, "density_nucleus") == 0
    assert math.isnan(number(field, "mean_nucleus_area"))
    assert math.isnan(number(field, "cell_nucleus_ratio"))


def test_only_what_is_asked_for_is_read(field):
    shutil.rmtree(field.root / "cells")
    shutil.rmtree(field.root / "images")
    assert number(field, "count_nucleus") == 1
    assert number(field, "width") == 40, "of the mask that was read"
    with pytest.raises(MsdmError, match=r"cells/a\.png"):
        number(field, "count_cell")
    with pytest.raises(MsdmError, match=r"images/a\.png"):
        number(Field(field.root, field.row), "width")


def test_every_name_is_read_back_and_others_are_not():
    names = property_names(KINDS)
    assert len(set(names)) == len(names)
    assert all(parse_property(name, KINDS) for name in names)
    for name in ("mean_tumour_area", "mean_cell_orientation", "count_cells", "mean_cell_area ", "", "assay"):
        assert parse_property(name, KINDS) is None
    assert parse_property("count_tumour_cell", ("cell", "tumour_cell")).kinds == ("tumour_cell",)
    assert parse_property("count_cell", ()) is None


def test_the_kinds_of_a_folder(field):
    (field.root / "gland").mkdir()
    (field.root / ".cache").mkdir()
    assert mask_kinds(field.root) == ("cell", "gland", "nucleus")
