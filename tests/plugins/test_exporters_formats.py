"""What each format's files hold, what is chosen, and what is refused."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.fields import MANIFEST
from msdm_kit.core.manifest import read_manifest
from msdm_kit.plugins.descriptor import Plugin, lazy
from msdm_kit.plugins.exporting import Planned, export_data
from msdm_kit.plugins.host import Host
from msdm_kit.plugins.importing import Transferred
from msdm_kit.plugins.instance_index import classes_at, index_instances
from msdm_kit.plugins.instances import read_instances

from ..foreign.files import load
from .test_exporters import write_set

CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[2]))
NUCLEI = np.array([[4, 4, 0, 9], [0, 0, 9, 9], [7, 0, 0, 0]], np.uint16)
CELLS = np.array([[2, 2, 0, 3], [2, 0, 3, 3], [0, 0, 0, 5]], np.uint16)
RELABELLED = np.array([[1, 1, 0, 3], [0, 0, 3, 3], [2, 0, 0, 0]])


@pytest.fixture
def exported(tmp_path):
    """Export a set and return what was done; the files lie in `out`."""

    def run(format, fields=None, classes=None, columns=None, **options):
        write_set(tmp_path / "set", fields or {"a": {"nucleus": NUCLEI}}, classes, columns)
        return export_data(tmp_path / "set", tmp_path / "out", format, **options)

    return run


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_cellpose_has_pairs_with_labels_from_1(exported, tmp_path):
    events = []
    done = exported("cellpose", listener=events.append)
    assert events == [Planned("cellpose", ("nucleus",), 1), Transferred(1, 1)]
    assert files(tmp_path / "out") == ["a.tif", "a_masks.tif", "fields.csv"]
    masks = load(tmp_path / "out/a_masks.tif")
    assert masks.dtype == np.uint16
    assert np.array_equal(masks, RELABELLED)
    assert np.array_equal(load(tmp_path / "out/a.tif"), load(tmp_path / "set/images/a.png"))
    assert (done.fields, done.instances, done.folder) == (1, {"nucleus": 3}, tmp_path / "out")


def test_cellpose_is_warned_of_fields_with_few_masks(exported):
    five = np.arange(6, dtype=np.uint16)[None]
    (note,) = exported("cellpose", {id: {"cell": m} for id, m in (("a", CELLS), ("b", five))}).notes
    assert "1 of 2 fields have fewer than 5 masks" in note


def test_names_that_cellpose_takes_for_its_own_are_changed(exported, tmp_path):
    exported("cellpose", {id: {"cell": CELLS} for id in ("a", "a_masks", "a_img")}, {}, {"a": {"assay": "x"}})
    rows = read_manifest(tmp_path / "out/fields.csv")
    assert [row["id"] for row in rows] == ["a", "a_masks_", "a_img_"]
    assert [row["field"] for row in rows] == ["", "a_masks", "a_img"]
    assert rows[0]["assay"] == "x"
    write_set(tmp_path / "two", {"a_img": {"cell": CELLS}, "a_img_": {"cell": CELLS}})
    with pytest.raises(MsdmError, match="would both be called 'a_img_'"):
        export_data(tmp_path / "two", tmp_path / "more", "cellpose")


def test_stardist_has_folders_of_one_name(exported, tmp_path):
    exported("stardist")
    assert files(tmp_path / "out") == ["fields.csv", "images/a.tif", "masks/a.tif"]
    assert np.array_equal(load(tmp_path / "out/masks/a.tif"), RELABELLED)


def test_hovernet_has_five_channels(exported, tmp_path):
    done = exported("hovernet", classes={"a": {"nucleus": {4: "round", 9: "long"}}})
    array = np.load(tmp_path / "out/a.npy")
    assert (array.dtype, array.shape) == (np.int32, (3, 4, 5))
    assert np.array_equal(array[..., :3], load(tmp_path / "set/images/a.png"))
    assert np.array_equal(array[..., 3], RELABELLED)
    assert np.array_equal(array[..., 4], np.array([0, 2, 0, 1])[RELABELLED])
    info = json.loads((tmp_path / "out/type_info.json").read_text())
    assert {number: name for number, (name, _) in info.items()} == {"0": "nolabel", "1": "long", "2": "round"}
    assert done.notes == ["1 instances have no class: their type is 0, which HoVer-Net takes for background"]


def test_consep_keeps_numbers_of_types(exported, tmp_path):
    from scipy.io import loadmat

    exported("consep", classes={"a": {"nucleus": {4: "2", 7: "7", 9: "2"}}})
    content = loadmat(tmp_path / "out/Labels/a.mat")
    assert np.array_equal(content["inst_map"], RELABELLED)
    assert content["inst_type"].tolist() == [[2], [7], [2]]
    assert np.array_equal(content["type_map"], np.array([0, 2, 7, 2])[RELABELLED])
    assert np.allclose(content["inst_centroid"], [[0.5, 0], [0, 2], [8 / 3, 2 / 3]])
    assert all(content[name].dtype == np.float64 for name in ("inst_map", "inst_type", "type_map"))
    assert files(tmp_path / "out") == ["Images/a.png", "Labels/a.mat", "fields.csv", "type_info.json"]


def test_sets_without_classes_have_no_types(exported, tmp_path):
    assert exported("consep").notes == []
    assert "type_info.json" not in files(tmp_path / "out")


def test_coco_has_boxes_areas_and_classes_below_their_kind(exported, tmp_path):
    exported("coco", {"a": {"nucleus": NUCLEI, "cell": CELLS}}, {"a": {"nucleus": {9: "long"}}})
    content = json.loads((tmp_path / "out/instances.json").read_text())
    assert content["images"] == [{"id": 1, "file_name": "a.png", "height": 3, "width": 4}]
    names = {c["id"]: (c["name"], c.get("supercategory")) for c in content["categories"]}
    assert sorted(names.values(), key=str) == [("cell", None), ("long", "nucleus"), ("nucleus", None)]
    found = [a for a in content["annotations"] if names[a["category_id"]][0] == "long"]
    assert [(a["area"], a["bbox"], a["iscrowd"], a["image_id"]) for a in found] == [(3, [2, 0, 2, 2], 0, 1)]
    assert [a["id"] for a in content["annotations"]] == list(range(1, 7))
    assert (tmp_path / "out/images/a.png").read_bytes() == (tmp_path / "set/images/a.png").read_bytes()


def test_qupath_gives_a_nucleus_to_the_cell_with_most_of_it(exported, tmp_path):
    exported("qupath", {"a": {"nucleus": NUCLEI, "cell": CELLS}}, {"a": {"nucleus": {4: "X: Y", 7: "Z"}}})
    features = json.loads((tmp_path / "out/a.geojson").read_text())["features"]
    kinds = [(f["properties"]["objectType"], "nucleusGeometry" in f) for f in features]
    assert kinds == [("cell", True), ("cell", True), ("cell", False), ("detection", False)]
    assert features[0]["nucleusGeometry"]["coordinates"] == [[[0, 0], [2, 0], [2, 1], [0, 1], [0, 0]]]
    assert features[0]["properties"]["classification"] == {"names": ["X", "Y"]}
    assert features[3]["properties"] == {
        "objectType": "detection", "name": "nucleus", "classification": {"name": "Z"},
    }  # fmt: skip


def test_pannuke_has_a_channel_per_class(exported, tmp_path):
    names = {4: "dead", 7: "Neoplastic", 9: "Epithelial"}
    columns = {"a": {"organ": "Colon"}, "b": {"organ": "Bile-duct"}}
    fields = {"a": {"nucleus": NUCLEI}, "b": {"nucleus": NUCLEI}}
    exported("pannuke", fields, {id: {"nucleus": names} for id in fields}, columns)
    images, masks = (np.load(tmp_path / f"out/{n}/fold1/{n}.npy") for n in ("images", "masks"))
    assert (images.shape, masks.shape) == ((2, 3, 4, 3), (2, 3, 4, 6))
    assert np.array_equal(images[1], load(tmp_path / "set/images/b.png"))
    channels = [2, 0, 0, 1, 3]  # label of each class
    for k, label in enumerate(channels):
        assert np.array_equal(masks[0, ..., k], label * (label == RELABELLED))
    assert np.array_equal(masks[0, ..., 5], RELABELLED == 0)
    assert np.load(tmp_path / "out/images/fold1/types.npy").tolist() == ["Colon", "Bile-duct"]
    rows = read_manifest(tmp_path / "out/fields.csv")
    assert [(row["id"], row["field"]) for row in rows] == [("fold1_00000", "a"), ("fold1_00001", "b")]


def test_pannuke_without_classes_has_one_channel(exported, tmp_path):
    (note,) = exported("pannuke").notes
    assert "all instances are in the first channel, Neoplastic" in note
    assert np.array_equal(np.load(tmp_path / "out/masks/fold1/masks.npy")[0, ..., 0], RELABELLED)
    assert "images/fold1/types.npy" not in files(tmp_path / "out")


def damaged_image(root):
    path = root / "images/a.png"
    path.write_bytes(path.read_bytes()[:60])


def empty_mask(root):
    Image.fromarray(np.zeros((3, 4), np.uint16)).save(root / "nuclei/a.png")


def other_size(root):
    Image.fromarray(np.ones((3, 5), np.uint16)).save(root / "nuclei/a.png")


def no_masks(root):
    (root / "nuclei/a.png").unlink()


def no_manifest(root):
    (root / MANIFEST).unlink()


def no_image(root):
    (root / "images/a.png").unlink()


def classes(text):
    return lambda root: (root / "instances.csv").write_text(text)


HEAD = "id,kind,label,class\n"


@pytest.mark.parametrize(
    ("format", "damage", "says"),
    [
        ("cellpose", damaged_image, r"images/a\.png"),
        ("cellpose", no_image, r"images/a\.png is missing"),
        ("cellpose", empty_mask, "has no instance"),
        ("coco", other_size, "is 3 x 5, and its image is 3 x 4"),
        ("cellpose", no_masks, "none of the 1 fields has a mask in .*nuclei"),
        ("cellpose", no_manifest, r"metadata\.csv is missing"),
        ("coco", classes("a,b\n"), "must begin with the columns"),
        ("coco", classes(HEAD + "a,nucleus,x,round\n"), "line 2: 'a,nucleus,x,round' is no id"),
        ("coco", classes(HEAD + 'a,nucleus,4,"round\n'), "cannot be read"),
        ("coco", classes(HEAD + "a,nucleus,4,cell\n"), "class 'cell' .* would be read as the kind"),
        ("qupath", classes(HEAD + "a,nucleus,4,Ignore*\n"), "ends in '\\*'"),
        ("pannuke", classes(HEAD + "a,nucleus,4,Dead\n"), "an instance has no class"),
        ("pannuke", classes(HEAD + "a,nucleus,4,Ded\n"), "the class 'Ded'.*did you mean 'Dead'"),
        (
            "consep",
            classes(HEAD + "".join(f"a,nucleus,{k},c{k}\n" for k in range(300))),
            "300 classes, and 255 types are legal",
        ),
        ("celpose", lambda root: None, "did you mean 'cellpose'"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(tmp_path, format, damage, says):
    damage(write_set(tmp_path / "set", {"a": {"nucleus": NUCLEI}}))
    with pytest.raises(MsdmError, match=says) as caught:
        export_data(tmp_path / "set", tmp_path / "out", format)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_fields_of_other_sizes_have_no_place_in_a_fold(exported, tmp_path):
    with pytest.raises(MsdmError, match="b is 1 x 6 and the first field 3 x 4"):
        exported("pannuke", {"a": {"nucleus": NUCLEI}, "b": {"nucleus": np.ones((1, 6), np.uint16)}})
    assert not (tmp_path / "out").exists()


def test_of_several_kinds_one_is_named(exported, tmp_path):
    both = {"a": {"nucleus": NUCLEI, "cell": CELLS}, "b": {"cell": CELLS}}
    with pytest.raises(
        MsdmError, match=r"kinds cell and nucleus, and this format holds one .* --mask-kind cell"
    ):
        exported("cellpose", both)
    with pytest.raises(MsdmError, match="no masks of kind 'nuclei'; did you mean 'nucleus'"):
        exported("cellpose", both, mask_kind="nuclei")
    done = exported("cellpose", both, mask_kind="nucleus")
    assert done.notes[0] == "b left out: no mask of kind nucleus"
    assert (done.fields, done.instances) == (1, {"nucleus": 3})
    assert [row["id"] for row in read_manifest(tmp_path / "out/fields.csv")] == ["a"]
    done = export_data(tmp_path / "set", tmp_path / "qupath", "qupath", mask_kind="cell")
    assert done.instances == {"cell": 6}


def test_a_split_and_a_selection_choose_fields(tmp_path):
    fields = {id: {"cell": CELLS} for id in "abc"}
    columns = {id: {"split": "val" if id == "a" else "train"} for id in "abc"}
    write_set(tmp_path / "set", fields, {}, columns)
    (tmp_path / "it.csv").write_text("id\nc\na\n")

    def ids(name, **options):
        export_data(tmp_path / "set", tmp_path / name, "stardist", **options)
        return [row["id"] for row in read_manifest(tmp_path / name / "fields.csv")]

    assert ids("x", split="train") == ["b", "c"]
    assert ids("y", select=tmp_path / "it.csv") == ["c", "a"]
    assert ids("z", select=tmp_path / "it.csv", split="train") == ["c"]
    (tmp_path / "it.csv").write_text("id\na\n")
    with pytest.raises(MsdmError, match="has no field of split 'train'"):
        ids("w", select=tmp_path / "it.csv", split="train")
    with pytest.raises(MsdmError, match="did you mean 'train'"):
        ids("w", split="trian")


def test_a_folder_that_is_not_new_is_left_alone(tmp_path):
    root = write_set(tmp_path / "set", {"a": {"cell": CELLS}})
    with pytest.raises(MsdmError, match="is not an empty folder"):
        export_data(root, tmp_path, "cellpose")
    with pytest.raises(MsdmError, match="lies in"):
        export_data(root, root / "out", "cellpose")


@pytest.mark.parametrize("format", ["coco", "pannuke", "qupath", "consep"])
def test_several_processes_write_the_same(tmp_path, format):
    fields = {f"f{k:02d}": {"nucleus": np.roll(NUCLEI, k, 1)} for k in range(20)}
    write_set(tmp_path / "set", fields, {id: {"nucleus": dict.fromkeys((4, 7, 9), "Dead")} for id in fields})
    for workers in (1, 2):
        export_data(tmp_path / "set", tmp_path / str(workers), format, workers=workers)
    assert files(tmp_path / "1") == files(tmp_path / "2")
    for name in files(tmp_path / "1"):
        if not name.endswith(".mat"):  # they hold the time
            assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_the_index_of_classes_is_what_the_file_says(tmp_path):
    text = (
        "\ufeff" + HEAD + 'a,cell,1,"x\ny"\nb,cell,1,é\na,nucleus,2,"é, ""z"""\r\na,nucleus,3,\nc,cell,9,w\n'
    )
    (tmp_path / "instances.csv").write_bytes(text.encode())
    spans, names = index_instances(tmp_path, ["a", "b"], ["cell", "nucleus"])
    assert names == {"cell": {"x\ny", "é"}, "nucleus": {'é, "z"'}}
    assert set(spans) == {"a", "b"}
    wanted = read_instances(tmp_path)
    assert {id: classes_at(tmp_path, id, found) for id, found in spans.items()} == {
        "a": wanted["a"], "b": wanted["b"],
    }  # fmt: skip
    assert index_instances(tmp_path / "none", ["a"], ["cell"]) == ({}, {})


def page():
    return (CHECKOUT / "docs/data-export.md").read_text(encoding="utf-8")


def test_every_exporter_is_documented():
    assert set(Host().names("exporter")) <= set(re.findall(r"^\| `(\w+)`", page(), re.MULTILINE))


def test_the_example_of_the_documentation_works(tmp_path, monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```", page(), re.MULTILINE | re.DOTALL)
    (tmp_path / "example_exporter.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    host = Host()
    plugin = Plugin("arrays", "A test.", lazy("example_exporter:Arrays"))
    host._plugins["exporter", "arrays"] = (plugin, host._plugins["exporter", "coco"][1])
    write_set(tmp_path / "set", {"a": {"nucleus": NUCLEI}})
    export_data(tmp_path / "set", tmp_path / "out", "arrays", host=host)
    assert np.array_equal(np.load(tmp_path / "out/a_labels.npy"), RELABELLED)
    assert files(tmp_path / "out") == ["a.png", "a_labels.npy", "counts.csv", "fields.csv"]
    assert (tmp_path / "out/counts.csv").read_text() == "a,3\n"
