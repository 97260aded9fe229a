"""What formats allow and the fixtures do not show: holes, parts, overlaps, layers, folds, names."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from msdm_kit.core.manifest import read_manifest
from msdm_kit.plugins.importing import import_data
from msdm_kit.plugins.instances import read_instances

SQUARE = [[1, 1], [6, 1], [6, 6], [1, 6], [1, 1]]
HOLE = [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]
FAR = [[8, 1], [10, 1], [10, 3], [8, 3], [8, 1]]


def picture(path, height=8, width=12, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height), 200 if mode == "L" else None).save(path)


def feature(geometry, kind="detection", **members):
    properties = {"objectType": kind, **members.pop("properties", {})}
    return {"type": "Feature", "geometry": geometry, "properties": properties, **members}


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def masks(folder, kind="nuclei"):
    return {path.stem: np.asarray(Image.open(path)) for path in sorted((folder / kind).iterdir())}


@pytest.fixture
def geojson(tmp_path):
    """Import features of a picture of 8 x 12."""

    def build(*features, name="a.geojson", whole=None):
        picture(tmp_path / "set/a.png")
        content = whole or {"type": "FeatureCollection", "features": list(features)}
        (tmp_path / "set" / name).write_text(json.dumps(content))
        done = import_data(tmp_path / "set", tmp_path / "out")
        return done, tmp_path / "out"

    return build


def test_holes_are_left_out_and_parts_are_one_instance(geojson):
    parts = {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [FAR]]}
    _, out = geojson(feature(parts))
    wanted = np.zeros((8, 12), int)
    wanted[1:6, 1:6] = 1
    wanted[2:4, 2:4] = 0
    wanted[1:3, 8:10] = 1
    assert np.array_equal(masks(out)["a"], wanted)


def test_a_collection_of_geometries_is_one_instance(geojson):
    parts = [polygon(SQUARE), {"type": "Point", "coordinates": [1, 1]}, polygon(FAR)]
    _, out = geojson(feature({"type": "GeometryCollection", "geometries": parts}))
    assert sorted(np.unique(masks(out)["a"])) == [0, 1]
    assert (masks(out)["a"] > 0).sum() == 29


def test_a_later_outline_wins(geojson):
    done, out = geojson(
        feature(polygon(SQUARE)), feature(polygon(HOLE)), feature(polygon(FAR)), feature(polygon(FAR))
    )
    mask = masks(out)["a"]
    assert [mask[1, 1], mask[2, 2], mask[1, 8]] == [1, 2, 4]
    assert done.notes == ["1 instances left out: no pixel's centre in them, or covered by later ones"]


def test_a_name_may_go_on_after_the_pictures(geojson):
    geojson(feature(polygon(SQUARE)), name="a.png - cells_2.geojson")


def test_regions_round_cells_are_no_cells(geojson):
    region = feature(
        polygon([[0, 0], [12, 0], [12, 8], [0, 8]]),
        "annotation",
        properties={"classification": {"name": "Tumor"}},
    )
    cell = feature(polygon(SQUARE), "cell", nucleusGeometry=polygon(HOLE))
    spot = feature(polygon(FAR), "detection")
    done, out = geojson(region, cell, spot)
    assert done.instances == {"cell": (1, 1), "nucleus": (1, 1)}
    assert masks(out)["a"].max() == masks(out, "cells")["a"].max() == 1


def test_a_region_without_class_that_holds_others_is_none(geojson):
    region = feature(polygon([[0, 0], [12, 0], [12, 8], [0, 8]]), "annotation")
    done, _ = geojson(region, feature(polygon(SQUARE), "annotation"), feature(polygon(FAR), "annotation"))
    assert done.instances == {"nucleus": (1, 2)}


def test_plain_geojson_is_taken_for_annotations(geojson):
    bare = {"type": "Feature", "geometry": polygon(SQUARE), "properties": None}
    done, _ = geojson(whole=bare)
    assert done.instances == {"nucleus": (1, 1)}


def coco(folder, annotations, categories=({"id": 1, "name": "nucleus"},)):
    picture(folder / "images/a.png")
    images = [{"id": 1, "file_name": "a.png", "height": 8, "width": 12}]
    content = {"annotations": annotations, "images": images, "categories": list(categories)}
    (folder / "x.json").write_text(json.dumps(content))


def test_coco_keeps_parts_and_other_categories_as_classes(tmp_path):
    square, far = ([n for point in ring for n in point] for ring in (SQUARE, FAR))
    names = [{"id": 1, "name": "Nuclei"}, {"id": 5, "name": "lymphocyte"}, {"id": 6, "name": "cell"}]
    entries = [
        (1, [square, far], 0),
        (5, [[0.5, 0.5, 1.5, 0.5, 1.5, 7.5, 0.5, 7.5]], 0),
        (6, [square], 0),
        (1, [far], 1),
    ]
    annotations = [
        {"id": k, "image_id": 1, "category_id": c, "segmentation": s, "iscrowd": crowd}
        for k, (c, s, crowd) in enumerate(entries)
    ]
    coco(tmp_path / "set", annotations, names)
    done = import_data(tmp_path / "set", tmp_path / "out")
    assert done.instances == {"nucleus": (1, 2), "cell": (1, 1)}
    assert read_instances(tmp_path / "out") == {"a": {"nucleus": {2: "lymphocyte"}}}
    # the corners at halves are pixel centres: in on the left and the upper side only
    assert masks(tmp_path / "out")["a"][:, 0].tolist() == [2, 2, 2, 2, 2, 2, 2, 0]
    assert (masks(tmp_path / "out")["a"] == 1).sum() == 29


XML = """<?xml version="1.0"?>
<Annotations MicronsPerPixel="0.25">
<Annotation Id="1" Name=""><Attributes><Attribute Name="Epithelial" Id="0" Value=""/></Attributes><Regions>
<Region Id="1" Type="0" NegativeROA="0"><Attributes/><Vertices>{square}</Vertices></Region>
<Region Id="2" Type="0" NegativeROA="1"><Vertices>{hole}</Vertices></Region>
<Region Id="3" Type="3"><Vertices>{far}</Vertices></Region>
<Region Id="4" Type="0"><Vertices><Vertex X="1" Y="1"/></Vertices></Region>
</Regions></Annotation>
<Annotation Id="2" Name="Layer 2"><Regions><Region Id="1"><Vertices>{far}</Vertices></Region></Regions>
</Annotation></Annotations>"""


def vertices(ring):
    return "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ring)


def test_layers_of_imagescope_are_classes_and_negative_regions_holes(tmp_path):
    picture(tmp_path / "set/a.tif")
    text = XML.format(square=vertices(SQUARE), hole=vertices(HOLE), far=vertices(FAR))
    (tmp_path / "set/a.xml").write_text(text)
    import_data(tmp_path / "set", tmp_path / "out")
    assert read_instances(tmp_path / "out") == {"a": {"nucleus": {1: "Epithelial", 2: "Layer 2"}}}
    mask = masks(tmp_path / "out")["a"]
    assert [(mask == k).sum() for k in (1, 2)] == [25 - 4, 4]


def fold(folder, name, n=2):
    images, planes = np.zeros((n, 8, 8, 3)), np.zeros((n, 8, 8, 6))
    planes[:, 1:3, 1:3, 0] = 7
    planes[:, 5:7, 5:7, 1] = 7  # the id of another class
    planes[:, 5:7, 6:7, 4] = 9  # overlaps it
    planes[..., 5] = planes[..., :5].sum(-1) == 0
    for kind, array in (("images", images), ("masks", planes)):
        (folder / name / kind).mkdir(parents=True)
        np.save(folder / name / kind / f"{kind}.npy", array)


def test_folds_in_folders_are_read_and_their_archives_passed_over(tmp_path):
    for name in ("fold1", "fold2"):
        fold(tmp_path / "set", name)
    with zipfile.ZipFile(tmp_path / "set/fold_1.zip", "w") as archive:
        for kind in ("images", "masks"):
            archive.write(tmp_path / f"set/fold1/{kind}/{kind}.npy", f"fold1/{kind}/{kind}.npy")
    done = import_data(tmp_path / "set", tmp_path / "out")
    assert (done.fields, done.format) == (4, "pannuke")
    rows = read_manifest(tmp_path / "out/metadata.csv")
    assert [(row["id"], row["fold"]) for row in rows] == [
        (f"{name}_0000{k}", name) for name in ("fold1", "fold2") for k in (0, 1)
    ]
    mask = masks(tmp_path / "out")["fold1_00000"]
    named = read_instances(tmp_path / "out")["fold1_00000"]["nucleus"]
    assert {named[int(mask[y, x])] for y, x in ((1, 1),)} == {"Neoplastic"}
    assert [named[int(mask[5, x])] for x in (5, 6)] == ["Inflammatory", "Epithelial"]
    assert len(named) == 3


def test_labels_beyond_16_bits_are_renumbered_alike_in_every_mask(tmp_path):
    picture(tmp_path / "set/a.png")
    labels = np.zeros((8, 12), np.int32)
    labels[:2], labels[4:6] = 70_000, 5
    Image.fromarray(labels).save(tmp_path / "set/a_masks.tif")
    import_data(tmp_path / "set", tmp_path / "out")
    mask = masks(tmp_path / "out")["a"]
    assert [mask[0, 0], mask[3, 0], mask[4, 0]] == [2, 0, 1]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_pictures_become_rgb(tmp_path, mode):
    suffix = ".tif" if mode == "CMYK" else ".png"
    picture(tmp_path / f"set/a{suffix}", mode=mode)
    Image.fromarray(np.eye(8, 12, dtype=np.uint16)).save(tmp_path / "set/a_masks.png")
    import_data(tmp_path / "set", tmp_path / "out")
    assert Image.open(tmp_path / "out/images/a.png").mode == "RGB"


def test_ids_that_clash_get_their_folders_and_odd_characters_go(tmp_path):
    for name in ("one/a", "two/a", "b$c..d"):
        picture(tmp_path / f"set/{name}.png")
        Image.fromarray(np.eye(8, 12, dtype=np.uint8)).save(tmp_path / f"set/{name}_masks.png")
    import_data(tmp_path / "set", tmp_path / "out")
    rows = read_manifest(tmp_path / "out/metadata.csv")
    assert {row["id"]: row["source"] for row in rows} == {
        "b_c_d": "b$c..d_masks.png", "one_a": "one/a_masks.png", "two_a": "two/a_masks.png",
    }  # fmt: skip


def test_own_masks_win_over_those_of_the_model(tmp_path):
    picture(tmp_path / "set/a.png")
    Image.fromarray(np.eye(8, 12, dtype=np.uint16)).save(tmp_path / "set/a_masks.png")
    Image.fromarray(np.full((8, 12), 3, np.uint16)).save(tmp_path / "set/a_cp_masks.png")
    import_data(tmp_path / "set", tmp_path / "out")
    assert np.array_equal(masks(tmp_path / "out")["a"], np.eye(8, 12))


def test_stardist_pairs_are_read(tmp_path):
    for split in ("train", "test"):
        picture(tmp_path / f"set/{split}/images/{split}_1.tif")
        (tmp_path / f"set/{split}/masks").mkdir()
        Image.fromarray(np.eye(8, 12, dtype=np.uint16)).save(tmp_path / f"set/{split}/masks/{split}_1.tif")
    done = import_data(tmp_path / "set", tmp_path / "out")
    assert (done.format, done.instances) == ("stardist", {"nucleus": (2, 2)})


def test_roi_that_is_a_rectangle_or_has_holes(tmp_path):
    from roifile import ImagejRoi

    organ = tmp_path / "set/organ"
    picture(organ / "tissue images/a.png")
    (organ / "Imagej_zips").mkdir()
    rectangle = ImagejRoi.frompoints(np.array(SQUARE[:4]))
    shape = ImagejRoi.frompoints(np.array(FAR[:4]) + 0.0)
    with zipfile.ZipFile(organ / "Imagej_zips/a.zip", "w") as archive:
        archive.writestr("1.roi", rectangle.tobytes())
        archive.writestr("2.roi", shape.tobytes())
    import_data(tmp_path / "set", tmp_path / "out")
    assert [(masks(tmp_path / "out")["a"] == k).sum() for k in (1, 2)] == [25, 4]
