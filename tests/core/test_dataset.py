"""Opening a folder of fields, and everything that can be wrong with one."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from msdm_kit.core import fields
from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.fields import check_fields
from msdm_kit.core.images import save_image, save_labels, to_float
from msdm_kit.core.manifest import write_manifest


def make(root, ids=("a", "b", "c"), size=(8, 10)):
    rng = np.random.default_rng(0)
    splits = ["train", "train", "val"]
    write_manifest(
        root / "metadata.csv",
        [{"id": id, "split": splits[i % 3], "assay": f"stain {id}"} for i, id in enumerate(ids)],
    )
    for i, id in enumerate(ids, 1):
        save_image(root / "images" / f"{id}.png", to_float(rng.integers(0, 256, (*size, 3), np.uint8)))
        labels = np.zeros(size, np.int32)
        labels[1:5, 1:5] = 300 * i
        save_labels(root / "cells" / f"{id}.png", labels)
        save_labels(root / "nuclei" / f"{id}.png", np.where(rng.random(size) < 0.5, labels, 0))
    return root


def refuse(root, *words, **options):
    """One line, the same from `check_fields` and from opening."""
    problems = check_fields(root, **options)
    with pytest.raises(MsdmError) as caught:
        FieldDataset(root, **options)
    assert str(caught.value).startswith(problems[0])
    assert all("\n" not in problem for problem in problems)
    for word in words:
        assert word in problems[0]
    return str(caught.value)


def test_samples(tmp_path):
    data = FieldDataset(make(tmp_path))
    assert (len(data), data.ids, data.sizes) == (3, ["a", "b", "c"], [(8, 10)] * 3)
    sample = data[1]
    assert sample.id == "b"
    assert sample.metadata == {"id": "b", "split": "train", "assay": "stain b"}
    levels = np.asarray(Image.open(tmp_path / "images" / "b.png"))
    assert sample.image.dtype == np.float32
    assert np.array_equal(
        sample.image, (levels.transpose(2, 0, 1) / np.float32(127.5) - 1).astype(np.float32)
    )
    assert list(sample.masks) == ["cell", "nucleus"]
    assert sample.masks["cell"].dtype == np.int32
    assert sample.masks["cell"].max() == 600
    assert np.array_equal(data.by_id("b").image, sample.image)
    assert data[-1].id == "c"
    assert [s.id for s in data] == data.ids
    assert check_fields(tmp_path) == []
    with pytest.raises(IndexError):
        data[3]


def test_a_sample_is_the_callers_own(tmp_path):
    data = FieldDataset(make(tmp_path))
    before = data[0]
    data[0].image[:] = 9
    data[0].masks["cell"][:] = 9
    data[0].metadata["assay"] = "x"
    assert np.array_equal(data[0].image, before.image)
    assert data[0].masks["cell"].max() == 300
    assert data[0].metadata == before.metadata


def test_split_and_limit(tmp_path):
    make(tmp_path)
    assert FieldDataset(tmp_path, split="train").ids == ["a", "b"]
    assert FieldDataset(tmp_path, split="all").ids == ["a", "b", "c"]
    assert FieldDataset(tmp_path, split="train", limit=1).ids == ["a"]
    # Files of other rows are not asked for.
    (tmp_path / "images" / "c.png").unlink()
    assert FieldDataset(tmp_path, split="train").ids == ["a", "b"]


def test_other_kinds_and_kinds_that_are_not_asked_for(tmp_path):
    make(tmp_path)
    os.rename(tmp_path / "cells", tmp_path / "gland")
    assert list(FieldDataset(tmp_path, masks=("gland", "nucleus"))[0].masks) == ["gland", "nucleus"]
    assert list(FieldDataset(tmp_path, masks=())[0].masks) == []


def test_progress(tmp_path):
    calls = []
    FieldDataset(make(tmp_path), on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_the_budget_changes_what_is_read_again_and_nothing_else(tmp_path, monkeypatch, kept):
    one = 8 * 10 * (3 + 2 + 2)
    data = FieldDataset(make(tmp_path), budget=kept * one)
    whole = [FieldDataset(tmp_path)[i] for i in range(3)]
    read = []
    decode = fields.read_image
    monkeypatch.setattr(fields, "read_image", lambda path: read.append(path.stem) or decode(path))
    for i in range(3):
        assert np.array_equal(data[i].image, whole[i].image)
        assert np.array_equal(data[i].masks["nucleus"], whole[i].masks["nucleus"])
    assert set(read) == set("abc"[kept:])


def test_a_file_that_vanishes_later(tmp_path):
    data = FieldDataset(make(tmp_path), budget=0)
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(MsdmError, match=r"images/b\.png is missing"):
        data[1]


def test_an_image_that_need_not_be_there_must_not_vanish(tmp_path):
    make(tmp_path)
    (tmp_path / "images" / "a.png").unlink()
    data = FieldDataset(tmp_path, images=False, budget=0)
    (tmp_path / "images" / "b.png").unlink()
    assert data[0].image is None
    for dataset, i in ((data, 1), (data.subset(["c", "b"]), 1), (pickle.loads(pickle.dumps(data)), 1)):
        with pytest.raises(MsdmError, match=r"b.* is missing"):
            dataset[i]


def test_files_of_another_size_than_those_that_were_checked(tmp_path):
    data = FieldDataset(make(tmp_path), budget=0)
    make(tmp_path, size=(64, 64))
    with pytest.raises(MsdmError, match="field 'b' are 64 x 64, and were 8 x 10 when they were checked"):
        data[1]


def test_a_pickle_holds_no_pixels_and_reads_the_same(tmp_path):
    data = FieldDataset(make(tmp_path, size=(64, 64)))
    message = pickle.dumps(data)
    assert len(message) < 4000
    assert np.array_equal(pickle.loads(message)[2].image, data[2].image)


def test_by_id_suggests(tmp_path):
    data = FieldDataset(make(tmp_path, ids=("dsb_01", "dsb_02", "dsb_03")))
    with pytest.raises(MsdmError, match=r"no field 'dsb_0x' among the 3 .*; did you mean 'dsb_0"):
        data.by_id("dsb_0x")
    with pytest.raises(MsdmError, match="ids are such as 'dsb_01'"):
        data.by_id("zzz")


def test_missing_folders_and_manifest(tmp_path):
    refuse(tmp_path / "none", str(tmp_path / "none"), "missing", "images, cells, nuclei")
    refuse(tmp_path, str(tmp_path / "metadata.csv"), "missing")
    make(tmp_path)
    os.rename(tmp_path / "nuclei", tmp_path / "elsewhere")
    refuse(tmp_path, str(tmp_path / "nuclei"), "missing")
    os.rename(tmp_path / "images", tmp_path / "pictures")
    refuse(tmp_path, str(tmp_path / "images"), "missing")


def test_wrong_options(tmp_path):
    make(tmp_path)
    refuse(tmp_path, "limit 0", limit=0)
    refuse(tmp_path, "'../x'", masks=("../x",))
    refuse(tmp_path, "'images'", masks=("images",))
    refuse(tmp_path, str(tmp_path / "metadata.csv"), "'trian'", "did you mean 'train'", split="trian")
    write_manifest(tmp_path / "metadata.csv", [{"id": "a"}])
    refuse(tmp_path, str(tmp_path / "metadata.csv"), "no split column", "--split all", split="train")
    assert len(FieldDataset(tmp_path)) == 1


@pytest.mark.parametrize("folder", ["images", "cells", "nuclei"])
def test_a_missing_file_and_one_that_is_there_twice(tmp_path, folder):
    make(tmp_path)
    path = tmp_path / folder / "b.png"
    Image.open(path).save(path.with_suffix(".tif"))
    refuse(tmp_path, str(path), "b.tif", "both")
    path.unlink()
    assert len(FieldDataset(tmp_path)) == 3
    path.with_suffix(".tif").unlink()
    refuse(tmp_path, str(path), "missing")


@pytest.mark.parametrize("folder", ["images", "cells", "nuclei"])
@pytest.mark.parametrize("mode", ["RGBA", "P", "1", "LA"])
def test_other_types(tmp_path, folder, mode):
    make(tmp_path)
    Image.new(mode, (10, 8)).save(tmp_path / folder / "b.png")
    refuse(tmp_path, str(tmp_path / folder / "b.png"), f"mode {mode})")


@pytest.mark.parametrize("folder", ["images", "cells", "nuclei"])
def test_a_truncated_file(tmp_path, folder):
    make(tmp_path)
    path = tmp_path / folder / "b.png"
    path.write_bytes(path.read_bytes()[:50])
    refuse(tmp_path, str(path))


def test_a_mask_of_another_size(tmp_path):
    make(tmp_path)
    save_labels(tmp_path / "cells" / "b.png", np.ones((10, 8), int))
    refuse(tmp_path, str(tmp_path / "cells" / "b.png"), "10 x 8", "8 x 10")


def test_a_mask_without_an_instance(tmp_path):
    make(tmp_path)
    save_labels(tmp_path / "nuclei" / "b.png", np.zeros((8, 10), int))
    refuse(tmp_path, str(tmp_path / "nuclei" / "b.png"), "no instance", "nucleus")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_one_label_in_several_places_is_marked(tmp_path):
    root = make(tmp_path)
    labels = np.zeros((8, 10), np.int32)
    labels[:2, :2] = labels[5:, 5:] = 255
    save_labels(root / "cells" / "b.png", labels)
    labels[5:, 5:] = 7
    save_labels(root / "cells" / "c.png", labels)
    data = FieldDataset(root, masks=["cell"])  # a: one instance; b: a picture of 0 and 255; c: two instances
    assert data.one_label == [frozenset(), frozenset({"cell"}), frozenset()]
    assert data.subset(["c", "b"]).one_label == [frozenset(), frozenset({"cell"})]


def test_a_decompression_bomb(tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 79)
    refuse(tmp_path, str(tmp_path / "images" / "a.png"), "more than 79 pixels")


def test_all_problems_are_counted_in_the_order_of_the_rows(tmp_path):
    make(tmp_path)
    save_labels(tmp_path / "nuclei" / "a.png", np.zeros((8, 10), int))
    (tmp_path / "images" / "b.png").unlink()
    (tmp_path / "cells" / "c.png").write_bytes(b"")
    problems = check_fields(tmp_path)
    assert [p.split(" ")[0].removeprefix(f"{tmp_path}{os.sep}") for p in problems] == [
        os.path.join("nuclei", "a.png"),
        os.path.join("images", "b.png"),
        os.path.join("cells", "c.png"),
    ]
    assert refuse(tmp_path) == f"{problems[0]} (+2 more)"
