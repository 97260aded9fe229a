"""One large field as a user paints it: from mask files to a tiled OME-TIFF."""

import csv
import json
import signal
import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import tifffile
from PIL import Image

from msdm_kit.core.files import file_hash

WORDS = ["--steps", "2", "--window", "16", "--overlap", "4", "--device", "cpu"]


@pytest.fixture
def run(msdm, data, recipe, tmp_path):
    folder = tmp_path / "run"
    assert msdm("train", recipe, "--data", data, "--out", folder, "--set", "train.steps=1").code == 0
    return folder


def labels(height=40, width=50):
    rng, found = np.random.default_rng(0), np.zeros((height, width), np.uint16)
    y, x = np.mgrid[:height, :width]
    for k, (cy, cx) in enumerate(rng.uniform(0, (height, width), (12, 2)), 1):
        found[np.hypot(y - cy, x - cx) < 5] = 10 * k
    return found


@pytest.fixture
def masks(tmp_path):
    path = tmp_path / "nuclei.tif"
    tifffile.imwrite(path, labels(), tile=(16, 16), compression="zlib")
    return path


def refuses(outcome, folder, text):
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome
    assert text in outcome.err
    assert not folder.exists()


def test_a_field_is_painted_and_traced(msdm, run, data, masks, tmp_path):
    out = tmp_path / "new" / "large.ome.tif"
    words = [*WORDS, "--data", data, "--look", "f1", "--pixel-size", "0.5"]
    outcome = msdm("paint-field", run, masks, out, *words)
    assert outcome.code == 0, outcome.err
    assert "painting 40 x 50 pixels" in outcome.out
    assert "by 12 windows in 2 steps each, on cpu" in outcome.out
    assert "remaining 0 s" in outcome.out
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "large.json", "large.nucleus.ome.tif", "large.ome.tif",
    ]  # fmt: skip
    with tifffile.TiffFile(out) as tif:
        page = tif.pages[0]
        assert tif.is_ome
        assert page.is_tiled
        assert (page.tile, tif.series[0].axes, page.dtype) == ((256, 256), "YXS", np.uint8)
        image = tif.series[0].asarray()
        root = ElementTree.fromstring(tif.ome_metadata)
        (pixels,) = root.iter("{http://www.openmicroscopy.org/Schemas/OME/2016-06}Pixels")
        assert [pixels.get(k) for k in ("SizeX", "SizeY", "PhysicalSizeX", "PhysicalSizeXUnit")] == [
            "50", "40", "0.5", "µm",
        ]  # fmt: skip
        assert page.tags["XResolution"].value == (20000, 1)
    assert image.shape == (40, 50, 3)
    assert image.std() > 1
    assert np.array_equal(tifffile.imread(out.with_name("large.nucleus.ome.tif")), labels())
    record = json.loads(out.with_name("large.json").read_text())
    assert record["mask_files"] == [
        {"kind": "nucleus", "file": str(masks), "sha256": file_hash(masks)},
    ]  # fmt: skip
    assert (record["size"], record["seed"], record["source_appearance"]) == ([40, 50], 0, "f1")
    assert record["sampling"]["window"] == 16
    assert record["instances"] == {"nucleus": len(np.unique(labels())) - 1}
    assert record["metadata"]["indication"] == "left"
    assert "is there already" in msdm("paint-field", run, masks, out, *words).err
    # the noise is drawn from the field's name: of the same name it is the same picture
    again, other = (tmp_path / folder / "large.ome.tif" for folder in ("again", "other"))
    assert msdm("paint-field", run, masks, again, *words, "--memory", "0").code == 0
    assert np.array_equal(tifffile.imread(again), image)
    assert msdm("paint-field", run, masks, other, *words, "--window", "24").code == 0
    assert not np.array_equal(tifffile.imread(other), image)


def test_geojson_gives_a_field_without_a_picture(msdm, run, masks, tmp_path):
    path = tmp_path / "cells.geojson"
    square = [[3, 3], [12, 3], [12, 14], [3, 14], [3, 3]]
    far = [[x + 30, y + 8] for x, y in square]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}} for ring in (square, far)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    given = ["--colour", "nucleus=90,60,140:9,9,9", "--set-metadata", "indication=left"]
    out = tmp_path / "field.ome.tif"
    outcome = msdm("paint-field", run, path, out, *WORDS, *given, "--size", "30x48")
    assert outcome.code == 0, outcome.err
    found = tifffile.imread(tmp_path / "field.nucleus.ome.tif")
    assert found.shape == (30, 48)
    assert (found[3:14, 3:12] == 1).all()
    assert (found[11:22, 33:42] == 2).all()
    assert (found > 0).sum() == 2 * 99
    record = json.loads((tmp_path / "field.json").read_text())
    assert record["given_colours"] == {"nucleus": {"mean": [90, 60, 140], "std": [9, 9, 9]}}
    # up to the last outline
    out = tmp_path / "tight.ome.tif"
    assert msdm("paint-field", run, path, out, *WORDS, *given).code == 0
    assert tifffile.imread(out).shape == (22, 42, 3)


def test_a_field_of_more_than_512_pixels_is_a_pyramid_with_its_masks(msdm, run, data, tmp_path):
    path, out = tmp_path / "nuclei.ome.tif", tmp_path / "field.ome.tif"
    metadata = {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(path, labels(20, 601), tile=(16, 16), compression="zlib", metadata=metadata)
    outcome = msdm("paint-field", run, path, out, *WORDS, "--data", data, "--look", "f1")
    assert outcome.code == 0, outcome.err
    for name in ("field", "field.nucleus"):
        with tifffile.TiffFile(tmp_path / f"{name}.ome.tif") as tif:
            (series,) = tif.series
            fine, coarse = (level.asarray() for level in series.levels)
            assert (fine.shape[:2], coarse.shape[:2]) == ((20, 601), (10, 300))
            assert all(level.pages[0].tile == (256, 256) for level in series.levels)
            assert 'PhysicalSizeX="0.25"' in tif.ome_metadata
        if name == "field":
            assert np.abs(coarse - fine[:, :600].reshape(10, 2, 300, 2, 3).mean(axis=(1, 3))).max() <= 0.5
        else:
            assert np.array_equal(fine, labels(20, 601))
            assert np.array_equal(coarse, fine[::2, :600:2])
    assert json.loads((tmp_path / "field.json").read_text())["pixel_size_um"] == 0.25


def test_a_recipe_that_starts_from_images_paints_a_field_from_noise(msdm, data, recipe, masks, tmp_path):
    folder, settings = (
        tmp_path / "starts",
        ["train.steps=1", "sample.start=image", "sample.keep=inside:nucleus"],
    )
    words = [word for setting in settings for word in ("--set", setting)]
    assert msdm("train", recipe, "--data", data, "--out", folder, *words).code == 0
    outcome = msdm(
        "paint-field", folder, masks, tmp_path / "x.ome.tif", *WORDS, "--data", data, "--look", "f1"
    )
    assert outcome.code == 0, outcome.err
    sampling = json.loads((tmp_path / "x.json").read_text())["sampling"]
    assert (sampling["start"], sampling["keep"]) == ("noise", "nothing")


def test_large_fields_of_a_data_set(msdm, run, data, tmp_path):
    words = ["sample", run, "--data", data, "--n", "2", "--steps", "2"]
    for name, more in {"whole": [], "wide": ["--window", "64"], "small": ["--window", "16"]}.items():
        outcome = msdm(*words, "--out", tmp_path / name, *more)
        assert outcome.code == 0, outcome.err
    images, rows = {}, {}
    for name in ("whole", "wide", "small"):
        with (tmp_path / name / "metadata.csv").open() as file:
            rows[name] = list(csv.DictReader(file))
        images[name] = np.asarray(Image.open(tmp_path / name / "images" / f"{rows[name][0]['id']}.png"))
    settings = {name: json.loads(row[0]["sampling"]) for name, row in rows.items()}
    assert "window" not in settings["whole"]
    assert (settings["small"]["window"], settings["small"]["overlap"]) == (16, 4)
    assert np.array_equal(images["whole"], images["wide"])
    assert not np.array_equal(images["whole"], images["small"])


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (["--window", "15"], "multiple of 2"),
        (["--overlap", "16"], "cannot overlap by 16"),
        (["--also", "cell"], "write KIND=FILE"),
        (["--size", "30"], "HEIGHTxWIDTH"),
        (["--colour", "nucleus=90,60,140"], "no deviation"),
        (["--look", "f9"], "f9"),
        (["--pixel-size", "-1"], "micrometres"),
        (["--kind", "cell"], "no 'nucleus' masks"),
        ([], "give --look ID of a field to take them from"),
        (["--set-metadata", "indication=left"], "no colour for kind 'nucleus'"),
    ],
)
def test_mistakes_are_said_before_anything_is_painted(msdm, run, data, masks, tmp_path, extra, text):
    out = tmp_path / "new" / "large.ome.tif"
    refuses(msdm("paint-field", run, masks, out, *WORDS, "--data", data, *extra), out.parent, text)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (lambda p: p.write_bytes(b"II*\0nothing"), "damaged"),
        (lambda p: tifffile.imwrite(p, np.zeros((8, 8, 3), np.uint8)), "one channel"),
        (lambda p: tifffile.imwrite(p, np.zeros((8, 8), np.float32)), "whole numbers"),
        (lambda p: tifffile.imwrite(p, np.zeros((2, 8, 8), np.uint8)), "one channel"),
        (lambda p: tifffile.imwrite(p, np.zeros((8, 8), np.uint8)), "no instance"),
        (lambda p: tifffile.imwrite(p, np.full((8, 8), -1, np.int16)), "labels from -1"),
        (lambda p: None, "is missing"),
    ],
)
def test_files_that_are_no_masks_are_named(msdm, run, data, tmp_path, content, text):
    path, out = tmp_path / "bad.tif", tmp_path / "new" / "large.ome.tif"
    content(path)
    refuses(msdm("paint-field", run, path, out, *WORDS, "--data", data, "--look", "f1"), out.parent, text)
    refuses(msdm("paint-field", run, path, tmp_path / "new" / "x.png", *WORDS), out.parent, ".ome.tif")


def test_nothing_is_left_of_a_job_that_is_stopped(process, run, data, masks, tmp_path):
    out = tmp_path / "new" / "large.ome.tif"
    words = ["--data", data, "--look", "f1", "--window", "4", "--overlap", "2", "--steps", "300"]
    child = process("paint-field", run, masks, out, *words, "--solver", "ddim")
    for line in child.stdout:
        if line.startswith("painting"):
            break
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    assert child.wait(60) == 130
    assert child.stderr.read() == "stopped\n"
    assert not out.parent.exists()
