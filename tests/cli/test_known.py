"""Fields painted from their real images, and with pixels of them kept, as a user paints them."""

import json
import shutil

import numpy as np
import pytest

from msdm_kit.cli.main import run as run_command
from msdm_kit.core.dataset import FieldDataset

from .conftest import RECIPE, write_field


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data set and a run, which no test changes."""
    root = tmp_path_factory.mktemp("trained")
    rows = ["id,split,indication"]
    for i in range(6):
        write_field(root / "data", f"f{i}", seed=i)
        rows.append(f"f{i},{'train' if i < 4 else 'val'},{'left' if i % 2 else 'right'}")
    (root / "data" / "metadata.csv").write_text("\n".join(rows) + "\n")
    (root / "tiny.yaml").write_text(RECIPE)
    words = [
        "train",
        root / "tiny.yaml",
        "--data",
        root / "data",
        "--out",
        root / "run",
        "--set",
        "train.steps=1",
    ]
    assert run_command([str(word) for word in words]) == 0
    return root


@pytest.fixture
def data(trained):
    return trained / "data"


@pytest.fixture
def run(trained):
    return trained / "run"


@pytest.fixture
def paint(msdm, data, run, tmp_path):
    def call(*flags, where=data):
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        outcome = msdm("sample", run, "--data", where, "--out", out, "--split", "val", "--n", 2, *flags)
        return outcome, out

    return call


def fields(folder, id):
    sample = FieldDataset(folder, masks=["nucleus"]).by_id(id)
    return sample.image, sample.masks["nucleus"]


def test_strength_0_gives_the_image_back_and_the_manifest_says_so(paint, data):
    outcome, out = paint("--start", "image", "--strength", "0")
    assert (outcome.code, outcome.err) == (0, "")
    for row in FieldDataset(out, masks=["nucleus"]).rows:
        np.testing.assert_array_equal(fields(out, row["id"])[0], fields(data, row["source_morphology"])[0])
        sampling = json.loads(row["sampling"])
        assert (sampling["start"], sampling["strength"], sampling.get("keep")) == ("image", 0, None)


def test_strength_1_is_a_start_from_noise_and_less_is_nearer_to_the_image(paint, data):
    outs = [
        paint(*flags)[1]
        for flags in ([], ["--start=image", "--strength=1"], ["--start=image", "--strength=0.05"])
    ]
    plain, noise, near = (fields(out, "f4")[0] for out in outs)
    np.testing.assert_array_equal(noise, plain)
    real = fields(data, "f4")[0]
    assert np.abs(near - real).mean() < np.abs(plain - real).mean() / 2


@pytest.mark.parametrize("keep", ["inside:nucleus", "outside:nucleus"])
def test_a_kind_is_kept_or_painted_anew(paint, data, keep):
    outcome, out = paint("--keep", keep)
    assert (outcome.code, outcome.err) == (0, "")
    image, masks = fields(out, "f4")
    real, _ = fields(data, "f4")
    stay = (masks > 0) == keep.startswith("inside")
    np.testing.assert_array_equal(image[:, stay], real[:, stay])
    assert (image[:, ~stay] != real[:, ~stay]).mean() > 0.9


@pytest.mark.parametrize("flags", [["--start=image", "--strength=0.05"], ["--keep=inside:nucleus"]])
def test_windows_start_from_images_and_keep_pixels_of_them(paint, data, flags):
    outcome, out = paint(*flags, "--window", "16", "--overlap", "4")
    assert (outcome.code, outcome.err) == (0, "")
    real, (image, masks) = fields(data, "f4")[0], fields(out, "f4")
    if "--start=image" in flags:
        noise = fields(paint("--window", "16", "--overlap", "4")[1], "f4")[0]
        assert np.abs(image - real).mean() < np.abs(noise - real).mean() / 2
    else:
        np.testing.assert_array_equal(image[:, masks > 0], real[:, masks > 0])
        assert (image[:, masks == 0] != real[:, masks == 0]).mean() > 0.9


@pytest.mark.parametrize("margin", [0, 2])
def test_what_mask_operations_left_is_kept(paint, data, margin):
    outcome, out = paint(
        "--mask-op", "drop_instances:fraction=0.5", "--keep=unchanged", f"--keep-margin={margin}"
    )
    assert (outcome.code, outcome.err) == (0, "")
    image, masks = fields(out, "f4_v1")
    real, before = fields(data, "f4")
    changed = masks != before
    assert changed.any()
    rows, columns = np.nonzero(changed)
    box = np.zeros_like(changed)  # the instances of this fixture are rectangles
    box[
        max(0, rows.min() - margin) : rows.max() + margin + 1,
        max(0, columns.min() - margin) : columns.max() + margin + 1,
    ] = True
    np.testing.assert_array_equal(image[:, ~box], real[:, ~box])
    assert (image[:, box] != real[:, box]).mean() > 0.9


def test_the_same_seed_gives_the_same_pairs_whatever_the_batch(paint):
    flags = ["--start=image", "--strength=0.4", "--keep=inside:nucleus"]
    outs = [paint(*flags, "--batch", batch)[1] for batch in (1, 2)]
    for id in ("f4", "f5"):
        np.testing.assert_array_equal(*(fields(out, id)[0] for out in outs))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--strength=0.5"], "give --start image too"),
        (["--start=picture"], "sample: start: 'picture' is not legal"),
        (["--keep=all"], "sample: keep:"),
        (["--keep=inside:cell"], "no mask kind 'cell' in data.masks"),
        (["--keep=unchanged"], "without mask operations all is unchanged"),
        (["--start=image", "--solver-sweep"], "leave out --select, --versions, --start"),
    ],
)
def test_mistakes(paint, flags, named):
    outcome, out = paint(*flags)
    assert outcome.code == 2
    assert named in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not out.exists()


def test_fields_without_images_are_refused(paint, data, run, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(data, bare)
    shutil.rmtree(bare / "images")
    outcome, out = paint("--start=image", "--donors", data, where=bare)
    assert outcome.code == 2
    assert "has no image of 'f4' to start from or to keep pixels of" in outcome.err
    assert not out.exists()
