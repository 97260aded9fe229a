"""`msdm-kit data export`: fixtures of other tools there and back, selections, mistakes, and Ctrl-C."""

import json
import signal

import numpy as np
import pytest
from PIL import Image

from msdm_kit.core.manifest import read_manifest
from msdm_kit.plugins.instances import read_instances

from ..foreign.files import A, B, C, load, same_instances, truth, unpack
from .conftest import write_field
from .test_mistakes import refuses

FOLDERS = {"nucleus": "nuclei", "cell": "cells"}


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory):
    return unpack(tmp_path_factory.mktemp("foreign") / "files")


def classes_by_place(folder, name, id, kind):
    """The class at the first pixel of each of the true instances; None where there is none."""
    labels, wanted = load(folder / FOLDERS[kind] / f"{name}.png"), truth(id, kind)
    named = read_instances(folder).get(name, {}).get(kind, {})
    first = [np.argmax(wanted == label) for label in np.unique(wanted[wanted > 0])]
    return [named.get(int(labels.ravel()[k])) for k in first]


# what is imported first, and its field; what it is exported to; the kinds; whether classes come back
CASES = [
    ("qupath/dsb18_6c67b78e.geojson", A, "qupath", "nc", True),
    ("qupath/dsb18_6c67b78e.geojson", A, "coco", "nc", True),
    ("qupath/dsb18_6c67b78e.geojson", A, "consep", "n", True),
    ("qupath/dsb18_6c67b78e.geojson", A, "cellpose", "c", False),
    ("qupath/dsb18_6c67b78e.geojson", A, "stardist", "n", False),
    ("qupath/dsb18_6c67b78e.geojson", A, "pannuke", "n", False),
    ("hovernet_output", C, "consep", "n", True),
    ("cellpose/train", B, "qupath", "n", False),
]


@pytest.mark.parametrize(("source", "id", "format", "kinds", "classes"), CASES)
def test_a_foreign_set_goes_there_and_back(
    msdm, fixtures, monkeypatch, tmp_path, source, id, format, kinds, classes
):
    monkeypatch.chdir(fixtures)
    chosen = [kind for kind in FOLDERS if kind[0] in kinds]
    assert msdm("data", "import", source, tmp_path / "a", "--images", "pictures").code == 0
    if format == "pannuke":
        (tmp_path / "a/instances.csv").unlink()  # its classes are not those of PanNuke
    options = ["--mask-kind", chosen[0]] if len(chosen) == 1 else []
    outcome = msdm("data", "export", tmp_path / "a", tmp_path / "b", "--format", format, *options)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[-1].startswith("1 field with ")
    back = msdm("data", "import", tmp_path / "b", tmp_path / "c", "--kind", chosen[0])
    assert (back.code, back.err) == (0, "")
    assert f"of format {format}" in back.out
    name = "fold1_00000" if format == "pannuke" else id
    assert np.array_equal(load(tmp_path / f"c/images/{name}.png"), load(fixtures / f"pictures/{id}.png"))
    for kind, folder in FOLDERS.items():
        assert (tmp_path / "c" / folder).exists() == (kind in chosen)
        if kind in chosen:
            assert same_instances(load(tmp_path / f"c/{folder}/{name}.png"), truth(id, kind))
    if classes:
        kind = chosen[0]
        before, after = (classes_by_place(tmp_path / s, id, id, kind) for s in "ac")
        assert before == after
        assert len(set(before)) > 1


def test_columns_come_back(msdm, data, tmp_path):
    assert msdm("data", "export", data, tmp_path / "b", "--format", "coco").code == 0
    assert msdm(
        "data", "import", tmp_path / "b", tmp_path / "c", "--metadata", tmp_path / "b/fields.csv"
    ).code == 0  # fmt: skip
    rows = [
        {k: v for k, v in row.items() if k != "source"} for row in read_manifest(tmp_path / "c/metadata.csv")
    ]
    assert rows == read_manifest(data / "metadata.csv")


def test_a_painted_set_is_exported_as_any_other(msdm, data, tmp_path):
    # what msdm-kit sample lays beside the fields
    Image.new("RGB", (9, 9)).save(data / "contact-sheet.png")
    for name in ("summary.json", "recipe.yaml"):
        (data / name).write_text("{}")
    outcome = msdm("data", "export", data, tmp_path / "b", "--format", "cellpose")
    assert outcome.code == 0
    assert "note: 6 of 6 fields have fewer than 5 masks" in outcome.out
    assert outcome.out.splitlines()[-1].startswith("6 fields with 12 of kind nucleus, in ")
    assert len(list((tmp_path / "b").glob("*_masks.tif"))) == 6


def test_what_was_selected_is_exported(msdm, data, tmp_path):
    write_field(data, "f1", size=(48, 40), seed=9)
    where = "indication == 'left'"
    assert msdm("data", "select", data, "--where", where, "--out", tmp_path / "it.csv").code == 0
    outcome = msdm(
        "data", "export", data, tmp_path / "b", "--format", "coco", "--select", tmp_path / "it.csv",
        "--split", "train",
    )  # fmt: skip
    assert outcome.code == 0
    images = json.loads((tmp_path / "b/instances.json").read_text())["images"]
    assert [(i["file_name"], i["height"], i["width"]) for i in images] == [
        ("f1.png", 48, 40),
        ("f3.png", 24, 20),
    ]


def test_a_data_set_may_be_named(msdm, tmp_path):
    outcome = msdm(
        "data", "export", "histology-nuclei", tmp_path / "b", "--format", "qupath", "--split", "val",
        "--mask-kind", "cell",
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    assert list((tmp_path / "b").glob("*.geojson"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--format", "celpose"], "did you mean 'cellpose'"),
        (["--format", "cellpose", "--mask-kind", "cell"], "has no masks of kind 'cell'"),
        (["--format", "cellpose", "--split", "test"], "has no row of split 'test'"),
        (["--format", "cellpose", "--select", "none.csv"], "none.csv is missing"),
        ([], "Missing option '--format'"),
    ],
)
def test_a_mistake_is_one_line(msdm, data, tmp_path, options, says):
    refuses(msdm("data", "export", data, tmp_path / "made/b", *options), says)
    assert not (tmp_path / "made").exists()


def test_a_damaged_file_is_one_line_and_leaves_nothing(msdm, data, tmp_path):
    path = data / "images/f3.png"
    path.write_bytes(path.read_bytes()[:100])
    refuses(msdm("data", "export", data, tmp_path / "made/b", "--format", "coco"), "f3.png")
    assert list((tmp_path / "made").iterdir()) == []
    refuses(msdm("data", "export", tmp_path / "none", tmp_path / "b", "--format", "coco"), "no data folder")
    refuses(msdm("data", "export", data, tmp_path, "--format", "coco"), "is not an empty folder")


SLOW = """\
import time
from msdm_kit.plugins import exporting
write = exporting._write_one
def slow(*arguments):
    print("one", flush=True)
    time.sleep(0.5)
    return write(*arguments)
exporting._write_one = slow
from msdm_kit.cli.main import main
main()
"""


def test_ctrl_c_leaves_nothing(process, data, tmp_path):
    started = process("data", "export", data, tmp_path / "made/b", "--format", "coco", python=SLOW)
    for line in started.stdout:
        if line == "one\n":
            started.send_signal(signal.SIGINT)
            break
    out, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (130, "stopped\n"), out
    assert list((tmp_path / "made").iterdir()) == []


def test_exporters_are_listed(msdm):
    lines = [line.split() for line in msdm("plugins").out.splitlines()]
    found = {line[1] for line in lines if line[0] == "exporter"}
    assert found >= {"cellpose", "coco", "consep", "hovernet", "pannuke", "qupath", "stardist"}
