"""What is exported comes back: import(export(x)) = x up to renumbering, in every format that has both."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from msdm_kit.core.fields import mask_folder
from msdm_kit.core.manifest import read_manifest, write_manifest
from msdm_kit.plugins.exporters.outlines import polygons
from msdm_kit.plugins.exporters.runs import run_length_codes
from msdm_kit.plugins.exporting import export_data
from msdm_kit.plugins.importers.raster import polygon
from msdm_kit.plugins.importers.runs import from_counts
from msdm_kit.plugins.importing import import_data
from msdm_kit.plugins.instances import InstanceFile, read_instances

from ..foreign.files import load, same_instances

CLASSES = ("round", "Elongated: Checked", 'odd, "name"', "é", "7")
PANNUKE = ("Neoplastic", "Inflammatory", "Connective", "Dead", "Epithelial")
SEVERAL = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """Without waiting for the disc."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(os, "sync", raising=False)
        patch.setattr(os, "fsync", lambda handle: None)
        yield


def write_set(root, fields, classes=None, columns=None):
    """A data folder of {id: {kind: labels}}, and {id: {kind: {label: class}}}."""
    with InstanceFile(root) as file:
        for id, masks in fields.items():
            size = next(iter(masks.values())).shape
            image = np.random.default_rng(len(id)).integers(0, 256, (*size, 3), np.uint8)
            for folder, array in (("images", image), *((mask_folder(k), m) for k, m in masks.items())):
                (root / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / folder / f"{id}.png")
            file.add(id, (classes or {}).get(id, {}))
    write_manifest(root / "metadata.csv", [{"id": id, **(columns or {}).get(id, {})} for id in fields])
    return root


def by_place(labels, classes):
    """The classes of instances by their first pixel, which no renumbering moves."""
    return {int(np.argmax(labels.ravel() == label)): name for label, name in classes.items()}


def there_and_back(fields, classes, format, columns=None, **options):
    """Export and import, and check ids and images; the masks and classes found, by id and kind."""
    base = Path(tempfile.mkdtemp())
    try:
        root = write_set(base / "set", fields, classes, columns)
        export_data(root, base / "foreign", format, **options)
        kind = options.get("mask_kind") or next(iter(next(iter(fields.values()))))
        back = import_data(base / "foreign", base / "back", kind=kind)
        assert back.format == format
        names = [row["id"] for row in read_manifest(base / "foreign/fields.csv")]
        assert [row["id"] for row in read_manifest(base / "back/metadata.csv")] == sorted(names)
        named, found = read_instances(base / "back"), {}
        for id, name in zip(fields, names, strict=True):
            assert np.array_equal(load(base / f"back/images/{name}.png"), load(root / f"images/{id}.png"))
            for k in fields[id]:
                path = base / "back" / mask_folder(k) / f"{name}.png"
                if path.exists():
                    found[id, k] = load(path), named.get(name, {}).get(k, {})
        return found
    finally:
        shutil.rmtree(base)


@st.composite
def label_maps(draw, shape=None, labels=(0, 0, 1, 2, 5, 300, 65535), side=9):
    """Few pixels of few labels: touching, in pieces, with holes, of one pixel; scaled up at times."""
    size = shape or draw(st.tuples(st.integers(1, side), st.integers(1, side)))
    found = draw(arrays(np.uint16, size, elements=st.sampled_from(labels)))
    if not found.any():
        found[0, 0] = labels[-1]
    return found


@st.composite
def classed(draw, labels, names=CLASSES, every=False):
    choice = st.sampled_from(names if every else (None, *names))
    found = {int(label): draw(choice) for label in np.unique(labels[labels > 0])}
    return {label: name for label, name in found.items() if name}


@pytest.mark.parametrize("format", ["cellpose", "stardist", "consep", "coco", "qupath"])
@given(data=st.data())
@SEVERAL
def test_label_maps_and_their_classes_come_back(format, data):
    kind = data.draw(st.sampled_from(["nucleus", "cell", "gland"]))
    fields = {id: {kind: data.draw(label_maps())} for id in ("a", "b-2 c")}
    classes = {id: {kind: data.draw(classed(masks[kind]))} for id, masks in fields.items()}
    found = there_and_back(fields, classes, format)
    for id, masks in fields.items():
        labels, named = found[id, kind]
        assert same_instances(labels, masks[kind])
        if format not in ("cellpose", "stardist"):  # label maps alone
            assert by_place(labels, named) == by_place(masks[kind], classes[id][kind])


@given(data=st.data())
@SEVERAL
def test_folds_of_pannuke_come_back(data):
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    fields = {id: {"nucleus": data.draw(label_maps(shape))} for id in ("b", "a")}
    classes = {
        id: {"nucleus": data.draw(classed(masks["nucleus"], PANNUKE, every=True))}
        for id, masks in fields.items()
    }
    columns = {"b": {"organ": "Breast"}, "a": {"organ": "Bile-duct"}}
    found = there_and_back(fields, classes, "pannuke", columns)
    for id, masks in fields.items():
        labels, named = found[id, "nucleus"]
        assert same_instances(labels, masks["nucleus"])
        assert by_place(labels, named) == by_place(masks["nucleus"], classes[id]["nucleus"])


@pytest.mark.parametrize("format", ["coco", "qupath"])
@given(data=st.data())
@SEVERAL
def test_cells_and_nuclei_come_back_together(format, data):
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    masks = {kind: data.draw(label_maps(shape)) for kind in ("nucleus", "cell")}
    # QuPath has one class for a cell and its nucleus: the nucleus's
    classes = {"nucleus": data.draw(classed(masks["nucleus"], every=True))}
    if format == "coco":
        classes["cell"] = data.draw(classed(masks["cell"]))
    found = there_and_back({"a": masks}, {"a": classes}, format)
    for kind, wanted in masks.items():
        labels, named = found["a", kind]
        assert same_instances(labels, wanted)
        if kind in classes:
            assert by_place(labels, named) == by_place(wanted, classes[kind])


@given(data=st.data())
@SEVERAL
def test_fields_without_one_of_the_kinds_keep_the_other(data):
    fields = {
        "a": {"nucleus": data.draw(label_maps())},
        "b": {"cell": data.draw(label_maps())},
    }
    for format in ("coco", "qupath"):
        found = there_and_back(fields, {}, format)
        assert {key for key in found} == {("a", "nucleus"), ("b", "cell")}
        for (id, kind), (labels, named) in found.items():
            assert same_instances(labels, fields[id][kind])
            assert not named


@given(labels=label_maps(labels=(0, 0, 1, 1, 1), side=14))
@settings(max_examples=150, deadline=None)
def test_outlines_are_those_of_valid_polygons(labels):
    mask = labels > 0
    drawn = np.zeros(mask.shape, int)
    for piece in polygons(mask):
        areas = [
            sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring[:-1], ring[1:], strict=True))
            for ring in piece
        ]
        assert [area > 0 for area in areas] == [True] + [False] * (len(piece) - 1)  # an outline, then holes
        for ring in piece:
            assert ring[0] == ring[-1]
            assert len(set(ring)) == len(ring) - 1
            steps = [(x1 - x0, y1 - y0) for (x0, y0), (x1, y1) in zip(ring[:-1], ring[1:], strict=True)]
            assert all((dx == 0) != (dy == 0) for dx, dy in steps)
            assert all((a[0] == 0) != (b[0] == 0) for a, b in zip(steps, steps[1:] + steps[:1], strict=True))
        window, inside = polygon([np.array(ring, float) for ring in piece], *mask.shape)
        drawn[window] += inside
    assert np.array_equal(drawn, mask.astype(int))


def test_the_outlines_of_a_known_shape():
    ring = [(3, 1), (6, 1), (6, 4), (3, 4), (3, 1)]
    mask = np.ones((3, 3), bool)
    assert polygons(mask, 3, 1) == [[ring]]
    mask[1, 1] = False
    ((outline, hole),) = polygons(mask, 3, 1)
    assert outline == ring
    assert set(hole) == {(4, 2), (5, 2), (5, 3), (4, 3)}
    assert len(polygons(np.eye(2, dtype=bool))) == 2  # they meet in a corner only


# pycocotools 2.0, encode() of each instance as an array in Fortran's order
KNOWN = [([[0, 1, 0], [1, 1, 0]], ["132"]), ([[1]], ["01"]), ([[2, 0], [1, 1]], ["1110", "013"])]


@pytest.mark.parametrize(("labels", "codes"), KNOWN)
def test_run_length_codes_of_known_masks(labels, codes):
    assert run_length_codes(np.array(labels, np.uint16)) == codes


def test_a_long_run_has_a_long_code():
    labels = np.zeros((1200, 1300), np.uint16)
    labels[5, 3], labels[1000, 1290] = 1, 1
    (code,) = run_length_codes(labels)
    starts, lengths = from_counts(code, labels.shape, "x")
    assert starts.tolist() == [3 * 1200 + 5, 1290 * 1200 + 1000]
    assert lengths.tolist() == [1, 1]
