"""`data import` as a user runs it: every fixture comes back exactly, and every mistake is one line."""

import csv
import json
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.manifest import read_manifest
from msdm_kit.plugins.instances import read_instances

from ..foreign.files import HERE, A, B, C, load, same_instances, truth, unpack
from .test_mistakes import refuses

FOLDERS = {"nucleus": "nuclei", "cell": "cells"}
PICTURES = ["--images", "pictures"]
DSB = {
    A: "6c67b78e8164801059375ed9a607f61e67a7ae347e92e36a7f20514224541d56",
    B: "00ae65c1c6631ae6f2be1a449902976e6eb8483bf6b0740d00530220832c6d3e",
    C: "8f27ebc74164eddfe989a98a754dcf5a9c85ef599a1321de24bcf097df1814ca",
}
CROPS = {f"fold1_0000{k}": (id, x) for k, (id, x) in enumerate([(A, 0), (A, 64), (B, 32), (C, 64)])}

# source, options, format, {id: (field, kinds)}
CASES = {
    "dsb2018": ("dsb2018", [], "dsb2018", {DSB[k]: (k, "n") for k in DSB}),
    "dsb2018 csv": ("dsb2018/stage1_train_labels.csv", [], "dsb2018", {DSB[C]: (C, "n")}),
    "pannuke": ("pannuke", [], "pannuke", {id: (id, "n") for id in CROPS}),
    "pannuke zip": ("pannuke/fold_1.zip", [], "pannuke", {id: (id, "n") for id in CROPS}),
    "consep": (
        "consep",
        [],
        "consep",
        {"train_1": (A, "n"), "train_2": (C, "n"), "variant_row_vectors": (B, "n")},
    ),
    "consep rows": ("consep/variant_row_vectors.mat", [], "consep", {"variant_row_vectors": (B, "n")}),
    "hovernet": ("hovernet_output", PICTURES, "hovernet_output", {C: (C, "n")}),
    "hovernet without pictures": ("hovernet_output", [], "hovernet_output", {C: (C, "n")}),
    "hovernet json": ("hovernet_output/json", PICTURES, "hovernet_output", {C: (C, "n")}),
    "cellpose": ("cellpose/train", [], "cellpose", {B: (B, "n")}),
    "cellpose _img": ("cellpose/with_img_filter", [], "cellpose", {C: (C, "n")}),
    "cellpose output": ("cellpose/output", PICTURES, "cellpose", {C: (C, "n")}),
    "cellpose all": (
        "cellpose",
        [],
        "cellpose",
        {f"output_{C}": (C, "n"), f"with_img_filter_{C}": (C, "n"), B: (B, "n")},
    ),
    "qupath": (
        "qupath",
        PICTURES,
        "qupath",
        {A: (A, "nc"), f"{C}_annotations": (C, "n"), f"{C}_legacy_v02_list": (C, "nc")},
    ),
    "coco": ("coco", [], "coco", {B: (B, "n"), C: (C, "nc")}),
    "coco file": ("coco/annotations/instances.json", [], "coco", {B: (B, "n"), C: (C, "nc")}),
    "monuseg": ("monuseg", [], "monuseg", {A: (A, "n")}),
    "nuinsseg": ("nuinsseg", [], "nuinsseg", {"human_unknown_organ_01": (C, "n")}),
    "ascii": ("miccai_ascii", [], "ascii", {"image01": ("crop", "n")}),
}  # fmt: skip

WITHOUT_PICTURES = ("consep", "consep rows", "hovernet without pictures")


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory):
    return unpack(tmp_path_factory.mktemp("foreign") / "files")


@pytest.fixture
def foreign(fixtures, monkeypatch):
    monkeypatch.chdir(fixtures)
    return fixtures


def expected(field, kind):
    """The truth of a field, or of a crop of one."""
    if field in CROPS:
        id, x = CROPS[field]
        return truth(id, kind)[:256, x : x + 256]
    return truth(A, kind)[40:136, 100:228] if field == "crop" else truth(field, kind)


def picture(folder, field):
    if field in CROPS:
        id, x = CROPS[field]
        return load(folder / f"pictures/{id}.png")[:256, x : x + 256]
    whole = load(folder / f"pictures/{A if field == 'crop' else field}.png")
    return whole[40:136, 100:228] if field == "crop" else whole


def test_the_crops_are_those_of_the_fixtures():
    crops = json.loads((HERE / "pannuke/crops.json").read_text())
    assert [(c["id"], c["x"], c["y"]) for c in crops] == [(id, x, 0) for id, x in CROPS.values()]
    assert json.loads((HERE / "miccai_ascii/crop.json").read_text()) == {
        "id": A, "y": 40, "x": 100, "height": 96, "width": 128,
    }  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_fixture_comes_back_exactly(msdm, foreign, tmp_path, case):
    source, options, name, fields = CASES[case]
    outcome = msdm("data", "import", source, tmp_path / "out", *options)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"of format {name}" in outcome.out
    rows = {row["id"]: row for row in read_manifest(tmp_path / "out/metadata.csv")}
    assert set(rows) == set(fields)
    assert all(row["source"] for row in rows.values())
    for id, (field, kinds) in fields.items():
        for kind, folder in FOLDERS.items():
            path = tmp_path / "out" / folder / f"{id}.png"
            assert path.exists() == (kind[0] in kinds)
            if kind[0] in kinds:
                assert load(path).dtype == np.uint16
                assert same_instances(load(path), expected(field, kind)), (id, kind)
    if case not in WITHOUT_PICTURES:
        dataset = FieldDataset(tmp_path / "out", masks=["nucleus"])
        assert sorted(dataset.ids) == sorted(fields)
        for id, (field, _) in fields.items():
            assert np.array_equal(load(tmp_path / "out/images" / f"{id}.png"), picture(foreign, field)), id


def test_outlines_of_imagej_are_those_of_the_label_maps(msdm, foreign, tmp_path):
    shutil.copytree(foreign / "nuinsseg", tmp_path / "set")
    for folder in ("label masks", "label masks modify"):
        shutil.rmtree(tmp_path / "set/human unknown organ" / folder)
    assert msdm("data", "import", tmp_path / "set", tmp_path / "out").code == 0
    assert same_instances(load(tmp_path / "out/nuclei/human_unknown_organ_01.png"), truth(C, "nucleus"))
    (row,) = read_manifest(tmp_path / "out/metadata.csv")
    assert row["organ"] == "human unknown organ"
    assert row["source"].endswith("human_unknown_organ_01.zip")


# The fixtures' classes are a rule on shape (their README): eccentricity <= 0.85 is round.
@pytest.mark.parametrize(
    ("source", "id", "field", "words"),
    [
        ("consep", "train_1", A, ("1", "2")),
        ("consep", "variant_row_vectors", B, ("1", "2")),
        ("hovernet_output", C, C, ("round", "elongated")),
        ("hovernet_output/json", C, C, ("1", "2")),
        ("qupath", A, A, ("Round", "Elongated")),
        ("qupath", f"{C}_annotations", C, ("Round: Checked", "Elongated: Checked")),
        ("qupath", f"{C}_legacy_v02_list", C, ("Round", "Elongated")),
    ],
)
def test_every_instance_keeps_its_class(msdm, foreign, tmp_path, source, id, field, words):
    from skimage.measure import regionprops

    options = [] if source == "consep" else PICTURES
    assert msdm("data", "import", source, tmp_path / "out", *options).code == 0
    classes = read_instances(tmp_path / "out")[id]["nucleus"]
    found = load(tmp_path / f"out/nuclei/{id}.png")
    wanted = {}
    for region in regionprops(truth(field, "nucleus")):
        row, column = region.coords[0]
        wanted[int(found[row, column])] = words[region.eccentricity > 0.85]
    assert classes == wanted


def test_channels_of_pannuke_are_classes_and_its_types_a_column(msdm, foreign, tmp_path):
    assert msdm("data", "import", "pannuke", tmp_path / "out", "--column", "organ=indication").code == 0
    rows = read_manifest(tmp_path / "out/metadata.csv")
    assert [row["indication"] for row in rows] == ["glandular-epithelium"] * 2 + [
        "marrow-like",
        "tissue-with-vessel",
    ]
    assert {row["fold"] for row in rows} == {"fold1"}
    names = {
        name for kinds in read_instances(tmp_path / "out").values() for name in kinds["nucleus"].values()
    }
    assert names == {"Inflammatory", "Connective", "Epithelial"}


def test_metadata_is_merged_and_the_split_set(msdm, foreign, tmp_path):
    (tmp_path / "more.csv").write_text(f"id,assay\n{C},H&E\n{B},IHC\n")
    outcome = msdm(
        "data", "import", "coco", tmp_path / "out", "--metadata", tmp_path / "more.csv", "--split", "val",
        "--column", "assay=stain",
    )  # fmt: skip
    assert outcome.code == 0
    rows = read_manifest(tmp_path / "out/metadata.csv")
    assert [(row["id"], row["split"], row["stain"]) for row in rows] == [(B, "val", "IHC"), (C, "val", "H&E")]
    assert list(rows[0])[-1] == "source"
    assert "assay" not in rows[0]


def test_the_native_layout_comes_back_as_it_was(msdm, foreign, tmp_path):
    assert msdm("data", "import", "qupath", tmp_path / "a", *PICTURES, "--split", "train").code == 0
    outcome = msdm("data", "import", tmp_path / "a", tmp_path / "b")
    assert "of format native" in outcome.out
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert names == sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*.*"))
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_kind_can_be_named(msdm, foreign, tmp_path):
    assert msdm("data", "import", "cellpose/train", tmp_path / "out", "--kind", "cell").code == 0
    assert same_instances(load(tmp_path / f"out/cells/{B}.png"), truth(B, "nucleus"))
    assert not (tmp_path / "out/nuclei").exists()


def test_what_is_left_out_is_said(msdm, foreign, tmp_path):
    outcome = msdm("data", "import", "hovernet_output", tmp_path / "out")
    assert f"note: no picture of {C}: masks alone were written" in outcome.out
    outcome = msdm("data", "import", "coco", tmp_path / "coco")
    assert "note: 1 of 2 fields have a cell mask" in outcome.out
    shutil.copytree(foreign / "miccai_ascii", tmp_path / "set")
    (tmp_path / "set/empty_mask.txt").write_text("2 2\n" + "0\n" * 4)
    outcome = msdm("data", "import", tmp_path / "set", tmp_path / "some")
    assert "note: empty left out: no instance" in outcome.out
    assert [row["id"] for row in read_manifest(tmp_path / "some/metadata.csv")] == ["image01"]


def test_importers_are_listed(msdm):
    lines = [line.split() for line in msdm("plugins").out.splitlines()]
    assert {line[1] for line in lines if line[0] == "importer"} >= {name for _, _, name, _ in CASES.values()}


def test_several_processes_write_the_same(msdm, foreign, tmp_path):
    for workers in ("1", "2"):
        assert msdm("data", "import", "dsb2018", tmp_path / workers, "--workers", workers).code == 0
    for path in (tmp_path / "1").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "2" / path.relative_to(tmp_path / "1")).read_bytes()


SLOW = """\
import time
from msdm_kit.plugins import importing
transfer = importing._transfer_one
def slow(folder, job):
    print("one", flush=True)
    time.sleep(0.5)
    return transfer(folder, job)
importing._transfer_one = slow
from msdm_kit.cli.main import main
main()
"""


def test_ctrl_c_leaves_nothing(process, foreign, tmp_path):
    started = process("data", "import", "dsb2018", tmp_path / "made/out", python=SLOW)
    for line in started.stdout:
        if line == "one\n":
            started.send_signal(signal.SIGINT)
            break
    out, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (130, "stopped\n"), out
    assert list((tmp_path / "made").iterdir()) == []


def damaged_png(folder):
    shutil.copytree("cellpose/train", folder)
    path = folder / f"{B}.png"
    path.write_bytes(path.read_bytes()[:5000])


def many_instances(folder):
    shutil.copytree("miccai_ascii", folder)
    Image.fromarray(np.zeros((256, 256, 3), np.uint8)).save(folder / "image01.png")
    (folder / "image01_mask.txt").write_text("256 256\n" + "\n".join(map(str, range(1, 65537))))


def traversal(folder):
    shutil.copytree("coco", folder)
    path = folder / "annotations/instances.json"
    path.write_text(path.read_text().replace(f'"{B}.png"', f'"../../{B}.png"'))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda f: f.mkdir(), "is empty; looked for ascii: x_mask.txt"),
        (lambda f: None, "is missing; name the file or folder"),
        (lambda f: shutil.copytree(".", f), "looks like ascii and cellpose and coco"),
        (damaged_png, f"{B}.png is damaged"),
        (many_instances, "has 65536 instances, and a label mask of 16 bits holds 65535; cut it into tiles"),
        (traversal, "leads out of its folder and is refused"),
        (lambda f: shutil.copytree("qupath", f), "name the folder of pictures with --images"),
    ],
)
def test_a_mistake_in_the_files_is_one_line(msdm, foreign, tmp_path, make, says):
    make(tmp_path / "set")
    refuses(msdm("data", "import", tmp_path / "set", tmp_path / "made/out"), says)
    assert not (tmp_path / "made").exists() or list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--metadata", "more.csv"], "has rows of 'c', and no fields of that name are here"),
        (["--metadata", "few.csv"], f"has no row for '{C}'; add one for every field"),
        (["--column", "organ=indication"], "no column 'organ'; legal: id, source"),
        (["--column", "organ"], "write OLD=NEW"),
        (["--column", "source=id"], "neither of them id"),
        (["--format", "coc"], "did you mean 'coco'?"),
        (["--format", "monuseg"], "has no field of format monuseg"),
        (["--images", "nowhere"], "folder nowhere is missing"),
        (["--images", "expected"], "has no picture of"),
        (["--kind", "a/b"], "cannot name a folder"),
    ],
)
def test_a_mistake_in_the_options_is_one_line(msdm, foreign, tmp_path, options, says):
    (foreign / "more.csv").write_text(f"id,assay\n{C},a\n{B},b\nc,d\n")
    (foreign / "few.csv").write_text(f"id,assay\n{B},b\n")
    source = "coco" if options != ["--images", "expected"] else "hovernet_output"
    refuses(msdm("data", "import", source, tmp_path / "made/out", *options), says)
    assert not (tmp_path / "made").exists() or list((tmp_path / "made").iterdir()) == []


def test_a_folder_that_is_not_empty_is_left_alone(msdm, foreign, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    refuses(msdm("data", "import", "coco", tmp_path), "is not an empty folder; choose another")
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]
    refuses(msdm("data", "import", "coco", "coco/out"), "lies in coco, which is imported")


def test_seg_npy_needs_leave(msdm, foreign, tmp_path):
    (tmp_path / "set").mkdir()
    shutil.copy(f"cellpose/output/{C}_seg.npy", tmp_path / "set")
    refuses(msdm("data", "import", tmp_path / "set", tmp_path / "out"), "is a Python pickle")
    assert msdm("data", "import", tmp_path / "set", tmp_path / "out", "--allow-pickle").code == 0
    assert same_instances(load(tmp_path / f"out/nuclei/{C}.png"), truth(C, "nucleus"))


def test_classes_are_written_as_documented(msdm, foreign, tmp_path):
    assert msdm("data", "import", "hovernet_output", tmp_path / "out").code == 0
    with open(tmp_path / "out/instances.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows[0] == ["id", "kind", "label", "class"]
    assert rows[1] == [C, "nucleus", "3", "round"]
    assert len(rows) == 14
