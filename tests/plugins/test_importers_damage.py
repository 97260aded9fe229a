"""Files that are damaged, of another layout, or made to do harm: one line each, and nothing is written."""

import json
import os
from functools import partial

import numpy as np
import pytest
import tifffile
from PIL import Image

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.importing import import_data

from .test_importers_layouts import FAR, SQUARE, coco, feature, picture, polygon


def refused(tmp_path, *words, **options):
    """The import of `tmp_path/set` fails with one line, after which nothing is left."""
    with pytest.raises(MsdmError) as caught:
        import_data(tmp_path / "set", tmp_path / "made/out", **options)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
    assert not (tmp_path / "made").exists() or not os.listdir(tmp_path / "made")


@pytest.fixture
def refuses(tmp_path):
    return partial(refused, tmp_path)


def mat(path, **variables):
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)


LABELS = np.eye(8, 12, dtype=np.int32)


def test_mat_of_another_layout(tmp_path, refuses):
    mat(tmp_path / "set/a.mat", nuclei=LABELS, other=1)
    refuses("a.mat has no inst_map", "nuclei, other")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"inst_map": LABELS + 0.5}, "labels are whole numbers"),
        ({"inst_map": LABELS - 1}, "labels are whole numbers from 0"),
        ({"inst_map": np.where(LABELS > 0, np.nan, 0)}, "labels are whole numbers"),
        ({"inst_map": np.zeros((2, 3, 4))}, "legal are two axes"),
        ({"inst_map": LABELS, "inst_type": np.ones((3, 1))}, "3 rows of inst_type for 1 instances"),
        ({"inst_map": LABELS, "type_map": np.ones((3, 1))}, "they must agree"),
        ({"inst_map": "text"}, "legal are two axes"),
    ],
)
def test_mat_with_wrong_contents(tmp_path, refuses, variables, says):
    mat(tmp_path / "set/a.mat", **variables)
    refuses("a.mat", says)


def test_mat_that_is_damaged_or_hdf5(tmp_path, refuses):
    mat(tmp_path / "set/a.mat", inst_map=LABELS)
    whole = (tmp_path / "set/a.mat").read_bytes()
    (tmp_path / "set/a.mat").write_bytes(whole[: len(whole) // 2])
    refuses("a.mat is no MATLAB file, or damaged")
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "set/a.mat").write_bytes(header + bytes(400))
    refuses("is of MATLAB 7.3 (HDF5)", "save it with -v7")


def test_mat_of_another_picture(tmp_path, refuses):
    mat(tmp_path / "set/a.mat", inst_map=LABELS)
    picture(tmp_path / "set/a.png", 9, 12)
    refuses("the nucleus mask is 8 x 12, and the field 9 x 12")


def pickled(tmp_path, content):
    """A `_seg.npy` as Cellpose saves it."""
    (tmp_path / "set").mkdir(exist_ok=True)
    np.save(tmp_path / "set/a_seg.npy", content)


class Harm:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_a_pickle_runs_nothing_even_where_it_is_allowed(tmp_path, refuses):
    pickled(tmp_path, {"masks": LABELS, "more": Harm(tmp_path / "harmed")})
    refuses("is a Python pickle", "--allow-pickle")
    refuses("not safe to read", "mkdir", allow_pickle=True)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "content", [{"no": LABELS}, [1], {"masks": LABELS + 0.5}, {"masks": "x"}, {"masks": [LABELS]}]
)
def test_a_pickle_without_masks(tmp_path, refuses, content):
    pickled(tmp_path, content)
    refuses("a_seg.npy", allow_pickle=True)


def test_a_pickle_cut_short(tmp_path, refuses):
    pickled(tmp_path, {"masks": LABELS})
    path = tmp_path / "set/a_seg.npy"
    path.write_bytes(path.read_bytes()[:-20])
    refuses("is no _seg.npy of Cellpose", allow_pickle=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON file, or damaged"),
        ("[" * 100_000, "nested too deeply"),
        ('{"type": "FeatureCollection", "features": 3}', "has no list of features"),
        ('{"type": "FeatureCollection", "features": [3]}', "has no list of features"),
        ('"text"', "has no list of features"),
        ("\xff", "is no JSON file"),
    ],
)
def test_geojson_that_is_none(tmp_path, refuses, text, says):
    picture(tmp_path / "set/a.png")
    (tmp_path / "set/a.geojson").write_text(text, encoding="latin-1")
    refuses("a.geojson", says)


@pytest.mark.parametrize(
    "coordinates", [3, [[[1, 2], ["a", "b"]]], [[[1, float("nan")], [2, 2], [3, 3]]], None, [[[1]]]]
)
def test_geojson_with_odd_coordinates(tmp_path, refuses, coordinates):
    picture(tmp_path / "set/a.png")
    content = {
        "type": "FeatureCollection",
        "features": [feature({"type": "Polygon", "coordinates": coordinates})],
    }
    (tmp_path / "set/a.geojson").write_text(json.dumps(content))
    refuses("a.geojson", "coordinate")


def test_two_pictures_for_one_file(tmp_path, refuses):
    for name in ("a.png", "a.tif"):
        picture(tmp_path / "set" / name)
    (tmp_path / "set/a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    refuses("may both be the picture of a.geojson")


ONE = {"id": 4, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_id": 9}, "annotation 4 is of image 9, which is not listed"),
        ({"category_id": 9}, "annotation 4 is of category 9, which is not listed"),
        ({"segmentation": None}, "annotation 4 has no segmentation"),
        ({"segmentation": [[1, 2, 3]]}, "no list x, y"),
        ({"segmentation": ["ab"]}, "no list x, y"),
        ({"segmentation": {"size": [8, 13], "counts": [8 * 13]}}, "annotation 4 is of size [8, 13]"),
        ({"segmentation": {"size": [8, 12], "counts": [3]}}, "annotation 4: counts do not add up"),
        ({"segmentation": {"size": [8, 12], "counts": "\x7f"}}, "annotation 4"),
        ({"segmentation": {}}, "annotation 4"),
    ],
)
def test_coco_annotations_that_are_wrong(tmp_path, refuses, change, says):
    coco(tmp_path / "set", [{**ONE, **change}])
    refuses("x.json", says)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ({"file_name": "../a.png"}, "leads out of its folder"),
        ({"file_name": "/etc/a.png"}, "leads out of its folder"),
        ({"file_name": "..\\a.png"}, "leads out of its folder"),
        ({"file_name": "C:\\a.png"}, "leads out of its folder"),
        ({"file_name": "a" * 5000 + ".png"}, "none can be called so (File name too long)"),
        (
            {"height": 10**9, "width": 10**9, "file_name": "none.png"},
            "says that it is 1000000000 x 1000000000",
        ),
        ({"height": 9}, "it is another picture"),
        ({"height": "8"}, "has no file_name, height and width"),
        ({"id": []}, "lacks or has a wrong"),
    ],
)
def test_coco_images_that_are_wrong(tmp_path, refuses, image, says):
    coco(tmp_path / "set", [ONE])
    path = tmp_path / "set/x.json"
    content = json.loads(path.read_text())
    content["images"][0].update(image)
    path.write_text(json.dumps(content))
    refuses(says)


def test_a_link_out_of_the_folder(tmp_path, refuses):
    coco(tmp_path / "set", [ONE])
    (tmp_path / "set/images/a.png").rename(tmp_path / "a.png")
    (tmp_path / "set/images/a.png").symlink_to(tmp_path / "a.png")
    refuses("leads out of")


ENTITY = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]><Annotations>&e;</Annotations>'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ENTITY, "declares a document type or entities, which is refused"),
        ("<Annotations><Annotation>", "is no XML that can be read"),
        ('<Annotations><Region Id="7"><Vertex X="1"/></Region></Annotations>', "vertex without numbers"),
        ('<Annotations><Region Id="7" Type="2"/></Annotations>', "region 7 is an ellipse"),
        (
            '<Annotations><Region><Vertex X="inf" Y="1"/><Vertex X="1" Y="1"/><Vertex X="1" Y="2"/></Region>'
            "</Annotations>",
            "no number",
        ),
    ],
)  # fmt: skip
def test_xml_that_is_wrong(tmp_path, refuses, text, says):
    picture(tmp_path / "set/a.png")
    (tmp_path / "set/a.xml").write_text(text)
    refuses("a.xml", says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2 2\n1\n2\n3\n", "has 3 labels, and its first line says 2 x 2"),
        ("2 2\n1\n2\n3\nx\n", "has a label that is no whole number"),
        ("2 2\n1\n2\n3\n-4\n", "labels from 0"),
        ("2 2\n" + "1\n" * 3000, "too many numbers"),
        ("100000 100000\n1\n", "says that it is 100000 x 100000"),
        ("0 2\n1\n", "says that it is 2 x 0"),
    ],
)
def test_text_masks_that_are_wrong(tmp_path, refuses, text, says):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a_mask.txt").write_text(text)
    refuses("a_mask.txt", says)


def hovernet(**nucleus):
    return {"mag": None, "nuc": {"1": {"contour": [[1, 1], [3, 1], [3, 3]], "type": 1, **nucleus}}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (hovernet(contour=[[1, 1], [99, 1], [3, 3]]), "has a point that is no pixel of a 8 x 12 picture"),
        (hovernet(contour=[1, 2]), "no list of points"),
        ({"mag": 1, "nuc": 3}, "has no object nuc"),
        ({"nuc": {"a": {}}}, "nucleus 'a' is not of HoVer-Net"),
        ({"nuc": {"1": 3}}, "nucleus '1' is not of HoVer-Net"),
    ],
)
def test_json_of_hovernet_that_is_wrong(tmp_path, refuses, content, says):
    picture(tmp_path / "set/a.png")
    (tmp_path / "set/json").mkdir()
    (tmp_path / "set/json/a.json").write_text(json.dumps(content))
    refuses("a.json", says)


@pytest.mark.parametrize(
    ("name", "content"),
    [("json/a.json", json.dumps(hovernet())), ("a.xml", "<Annotations/>"), ("a.geojson", '{"features": []}')],
)
def test_outlines_say_no_size(tmp_path, refuses, name, content):
    path = tmp_path / "set" / name
    path.parent.mkdir(parents=True)
    path.write_text(content)
    refuses(path.name, "none is called a; name the folder of pictures with --images")


def test_bowl_folders_and_codes_that_are_wrong(tmp_path, refuses):
    picture(tmp_path / "set/a/images/a.png")
    picture(tmp_path / "set/a/masks/1.png", 9, 12, "L")
    refuses("1.png is 9 x 12, and its picture is 8 x 12")
    (tmp_path / "set/a/masks/1.png").unlink()
    (tmp_path / "set/a/masks").rmdir()
    for rows, says in (
        ("a,1 2 3", "3 numbers, and runs are pairs"),
        ("a,90 9", "leads out of the 8 x 12 picture"),
        ("a", "the row has no EncodedPixels"),
        ("b,1 2", "name the folder of pictures with --images"),
    ):
        (tmp_path / "set/labels.csv").write_text(f"ImageId,EncodedPixels\n{rows}\n")
        refuses("labels.csv", says)


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("a_masks.png", np.zeros((8, 12, 3), np.uint8), "is no label map (Pillow mode RGB)"),
        ("a_masks.png", np.zeros((8, 12), np.uint16), "none of the 1 fields"),
        ("a_masks.tif", np.full((8, 12), 0.5, np.float32), "labels are whole numbers"),
        ("a_masks.tif", np.full((8, 12), -1, np.int32), "labels are whole numbers from 0"),
    ],
)
def test_label_maps_that_are_none(tmp_path, refuses, name, array, says):
    (tmp_path / "set").mkdir()
    Image.fromarray(array).save(tmp_path / "set" / name)
    refuses(says)


def test_pictures_that_are_wrong(tmp_path, refuses, monkeypatch):
    (tmp_path / "set").mkdir()
    Image.fromarray(LABELS.astype(np.uint16)).save(tmp_path / "set/a_masks.png")
    Image.fromarray(LABELS.astype(np.uint16)).save(tmp_path / "set/a.png")
    refuses("a.png has more than 8 bits per channel")
    (tmp_path / "set/a.png").write_bytes(b"text")
    refuses("a.png is no PNG, TIFF, JPEG or BMP")
    (tmp_path / "set/a.png").unlink()
    frames = [Image.new("RGB", (12, 8)) for _ in range(2)]
    frames[0].save(tmp_path / "set/a.tif", save_all=True, append_images=frames[1:])
    refuses("a.tif holds several pictures")
    (tmp_path / "set/a.tif").unlink()
    picture(tmp_path / "set/a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    refuses("a fiel", "d has 1 to 50 pixels")


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("name", ["a.tif", "a_masks.tif"])
def test_a_tiff_that_is_cut_short_is_one_line(tmp_path, refuses, capfd, tile, name):
    (tmp_path / "set").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    tifffile.imwrite(tmp_path / "set/a_masks.tif", noise[..., 0], compression="zlib", tile=tile)
    tifffile.imwrite(tmp_path / "set/a.tif", noise, compression="zlib", tile=tile, photometric="rgb")
    path = tmp_path / "set" / name
    path.write_bytes(path.read_bytes()[:-400])
    refuses(f"{name} is damaged or cannot be read (the file has {path.stat().st_size} bytes and goes on")
    assert capfd.readouterr() == ("", ""), "libtiff prints nothing"


def test_a_mixed_folder(tmp_path, refuses):
    coco(tmp_path / "set", [ONE])
    content = {"type": "FeatureCollection", "features": [feature(polygon(SQUARE)), feature(polygon(FAR))]}
    (tmp_path / "set/a.geojson").write_text(json.dumps(content))
    refuses("looks like coco and qupath", "--format")
    done = import_data(
        tmp_path / "set", tmp_path / "made/out", format="qupath", images=tmp_path / "set/images"
    )
    assert done.instances == {"nucleus": (1, 2)}
