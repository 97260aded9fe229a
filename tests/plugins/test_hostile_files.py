"""Files that fuzzing has found readers to fall over, each in its smallest form."""

import base64
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from msdm_kit.core.checkpoint import load_tensors
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.images import read_image, read_labels
from msdm_kit.plugins.convert_weights import read_tensors
from msdm_kit.plugins.experiment.results import read_scores
from msdm_kit.plugins.field_masks import read_field_masks
from msdm_kit.plugins.importers import monuseg
from msdm_kit.plugins.importers.archive import open_zip
from msdm_kit.plugins.importers.matlab import read_mat
from msdm_kit.plugins.importers.pannuke import _Mapped
from msdm_kit.plugins.importers.reading import read_npy_header, read_picture
from msdm_kit.plugins.importers.seg_npy import read_seg
from msdm_kit.plugins.importers.source import Source
from msdm_kit.plugins.instance_index import index_instances
from msdm_kit.plugins.instances import read_instances
from msdm_kit.plugins.recipe_files import load_recipe


def unpacked(text):
    return zlib.decompress(base64.b64decode(text))


def refused(call, *arguments):
    with pytest.raises(MsdmError) as caught:
        call(*arguments)
    return str(caught.value)


# ---- pictures

TAG_OF_TEXT = (
    "eNrz9NRi4GBgYOBjYGBkYWAEsgSAmBHK5gFiJkZmuDgzlA3CbEhsPkYmhv9AsA3IFgSyQWIgQhRJjRiSmeJQdgOQkGJkBbNvAbE0lP0I"
    "iDWQ9BoCzQTpe8UAAdVKxRmJBalKVgrRhkY6CoZmsbUM6IARDZdkpqWlZeak6hVUMtAPMNIYMtEYMtMYAgCgPxUy"
)


@pytest.mark.filterwarnings("ignore:Tag data larger")
@pytest.mark.parametrize("read", [read_image, read_labels, lambda p: read_picture(Path(p))])
def test_a_tiff_whose_tag_is_text(tmp_path, read):
    (tmp_path / "a.tif").write_bytes(unpacked(TAG_OF_TEXT))
    assert str(tmp_path / "a.tif") in refused(read, tmp_path / "a.tif")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_a_damaged_tiff_of_full_length_is_one_line(tmp_path, capfd, compression):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.tif", compression=compression)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[300:900] = b"\xff" * 600
    (tmp_path / "a.tif").write_bytes(data)
    assert "is damaged" in refused(read_labels, tmp_path / "a.tif")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def tags(path, **changes):
    """Change entries of a little-endian TIFF's first directory: tag -> value."""
    data = bytearray(path.read_bytes())
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for k in range(count):
        place = at + 2 + 12 * k
        (tag,) = struct.unpack_from("<H", data, place)
        if f"t{tag}" in changes:
            struct.pack_into("<HII", data, place + 2, 4, 1, changes[f"t{tag}"])
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"t256": 90_000, "t257": 90_000}, "bytes cannot hold"),
        ({"t279": 2**31}, "it is cut short"),
        ({"t278": 0}, "is no TIFF, or damaged"),
    ],
)
def test_a_label_tiff_that_lies(tmp_path, changes, says):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((16, 16), np.uint8), compression="zlib")
    assert read_field_masks([("nucleus", path)], tmp_path).masks["nucleus"].all()
    tags(path, **changes)
    assert says in refused(read_field_masks, [("nucleus", path)], tmp_path)


# ---- MATLAB, NumPy, pickles, archives

# SciPy 1.15 ends the process on it
ENDS_SCIPY = (
    "eNrzdQzxcXRSMNUzUPB1DNFNy8xJVQjISSxJyy/KtVIoyC/OrNBRcC5KTSxJTVHIz7NS8M3PU/DLL1MwMlYwMLIyNbcyNFIwMjAyYyAD"
    "MHr68gOpdiCumPM4OSFhQ0JaQgLzJRmHM4cZGNd41DAqpLV8Mv7c5f2oWJg74m6DTBqbyIGOlpkTDIx52g0F1jOuZlR5oe65t1nYnlmM"
    "Ieg4X/D5O7WpyvtnfQ9SerNw12+BHY3Hnj0OiE+//enj7Ze6+oZfL9yz9bS48v5rZcRa+/6PJju//VGPsv0rpCTExqB/QpQRAPQ8U8E="
)
LABELS = np.arange(12, dtype=np.int32).reshape(3, 4)


def test_a_mat_that_ends_scipy(tmp_path):
    (tmp_path / "a.mat").write_bytes(unpacked(ENDS_SCIPY))
    assert "a.mat" in refused(read_mat, tmp_path / "a.mat")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "f4", "u1", "i2", "u2", "i4", "u4", "i8", "?"])
def test_mat_of_scipy_is_read(tmp_path, dtype, compressed):
    from scipy.io import savemat

    labels = (LABELS > 5 if dtype == "?" else LABELS).astype(dtype)
    types = np.array([[k % 3] for k in range(1, 12)], np.float64)
    uids = np.arange(1, 12)[:, None]
    content = {
        "a": "text",
        "inst_map": labels,
        "inst_type": types,
        "inst_uid": uids,
        "s": {"x": 1},
        "c": [[1, "b"]],
    }
    savemat(tmp_path / "a.mat", content, do_compression=compressed)
    found, named = read_mat(tmp_path / "a.mat")
    assert np.array_equal(found, labels)
    assert found.dtype == np.int32
    assert named == {k: k % 3 for k in np.unique(labels[labels > 0]).tolist() if k % 3}


def test_mat_of_the_other_byte_order(tmp_path):
    """Written by hand: 2 x 2 of int32, stored as one byte each, as MATLAB narrows them."""
    name = struct.pack(">II", 1, 8) + b"inst_map"
    flags, shape = struct.pack(">IIII", 6, 8, 12, 0), struct.pack(">IIii", 5, 8, 2, 2)
    body = flags + shape + name + struct.pack(">HHBBBB", 4, 2, 1, 2, 3, 4)
    head = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI"
    (tmp_path / "a.mat").write_bytes(head + struct.pack(">II", 14, len(body)) + body)
    assert read_mat(tmp_path / "a.mat")[0].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
@pytest.mark.filterwarnings("error")
def test_a_mat_of_numbers_that_are_none_of_its_class(tmp_path, value):
    """Of int32, and stored as doubles."""
    flags, shape = struct.pack("<IIII", 6, 8, 12, 0), struct.pack("<IIii", 5, 8, 1, 1)
    body = flags + shape + struct.pack("<II", 1, 8) + b"inst_map" + struct.pack("<IId", 9, 8, value)
    head = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"
    (tmp_path / "a.mat").write_bytes(head + struct.pack("<II", 14, len(body)) + body)
    assert "numbers that are none of its class" in refused(read_mat, tmp_path / "a.mat")


def test_a_mat_that_unpacks_to_more_than_it_says(tmp_path):
    bomb = (
        struct.pack("<II", 14, 2**31)
        + struct.pack("<IIII", 6, 8, 6, 0)
        + struct.pack("<IIii", 5, 8, 30000, 30000)
    )
    packed = zlib.compress(bomb + struct.pack("<II", 1, 8) + b"inst_map" + bytes(10**6))
    head = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"
    (tmp_path / "a.mat").write_bytes(head + struct.pack("<II", 15, len(packed)) + packed)
    assert "says that it is 30000 x 30000" in refused(read_mat, tmp_path / "a.mat")


@pytest.mark.parametrize("shape", [b"(1,", b"(1, True, 3)}", b"(-1,)}", b"(1e9,)}"])
def test_a_npy_header_that_no_array_has(shape):
    header = b"{'descr': '<u1', 'fortran_order': False, 'shape': " + shape
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    assert "no .npy file" in refused(read_npy_header, io.BytesIO(data), "a.npy")


class Calls:
    """Pickles as a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


LOOPED: list = [1]
for _ in range(60):
    LOOPED = [LOOPED, LOOPED]


@pytest.mark.parametrize(
    "content",
    [
        {"masks": LOOPED},
        {"masks": Calls(np.ndarray, ((2**40,),))},
        {"masks": Calls(np._core.multiarray._reconstruct, (np.ndarray, (2**40,), b"b"))},
        {"masks": Calls(np.dtype, ("V2000000000",))},
        {"masks": Calls(np._core.multiarray.scalar, (np.dtype("i4"),))},
    ],
)
def test_a_seg_npy_that_asks_for_memory(tmp_path, content):
    header = np.lib.format
    out = io.BytesIO()
    header.write_array_header_1_0(out, {"descr": "|O", "fortran_order": False, "shape": ()})
    (tmp_path / "a_seg.npy").write_bytes(out.getvalue() + pickle.dumps(content))
    assert "a_seg.npy" in refused(read_seg, tmp_path / "a_seg.npy")


def test_a_pickle_that_numbers_its_parts_high(tmp_path):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "|O", "fortran_order": False, "shape": ()})
    (tmp_path / "a_seg.npy").write_bytes(out.getvalue() + b"\x80\x02}r\xff\xff\xff\x7f.")
    assert "it numbers its parts beyond their count" in refused(read_seg, tmp_path / "a_seg.npy")


def test_a_seg_npy_is_read_still(tmp_path):
    picture = np.zeros((3, 4, 3), np.uint8)
    for order in (LABELS, np.asfortranarray(LABELS)):
        content = {"masks": order, "img": picture, "n": np.int64(3), "f": np.float32(0.5)}
        np.save(tmp_path / "a_seg.npy", content, allow_pickle=True)
        labels, image = read_seg(tmp_path / "a_seg.npy")
        assert np.array_equal(labels, LABELS)
        assert np.array_equal(image, picture)


def test_a_zip_that_needs_a_later_version(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("images.npy", b"x")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 99
    (tmp_path / "a.zip").write_bytes(data)
    assert "is no ZIP archive" in refused(open_zip, tmp_path / "a.zip")


# ---- tables


@pytest.mark.parametrize("read", [read_instances, lambda root: index_instances(root, ["a"], ["cell"])])
def test_a_label_of_thousands_of_digits(tmp_path, read):
    (tmp_path / "instances.csv").write_text(f"id,kind,label,class\na,cell,{'1' * 5000},x\n")
    assert "line 2" in refused(read, tmp_path)


def test_codes_under_other_names(tmp_path):
    from msdm_kit.plugins.importers.dsb2018 import DSB2018

    (tmp_path / "a.csv").write_text("ImageId,EncodedPixelsX\na,1 1\n")
    assert "no EncodedPixels" in refused(lambda: list(DSB2018().fields(Source(tmp_path / "a.csv"))))


def test_scores_with_an_open_quote(tmp_path):
    (tmp_path / "s.csv").write_text('test,id,arm,seed,kind,metric,annotator,value\n"' + "x" * 200_000)
    assert "does not hold scores" in refused(read_scores, tmp_path / "s.csv")


# ---- what is no file


@pytest.fixture
def pipe(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes")
    os.mkfifo(tmp_path / "pipe.json")
    return tmp_path / "pipe.json"


def test_a_pipe_in_a_folder_is_left_out(pipe):
    (pipe.parent / "a.json").write_text("{}")
    os.symlink(pipe, pipe.parent / "link.json")
    os.symlink("loop.json", pipe.parent / "loop.json")
    source = Source(pipe.parent)
    assert [path.name for path in source.files(".json")] == ["a.json"]
    assert [path.name for path in source.glance] == ["a.json"]


def test_links_to_folders_are_not_followed(tmp_path):
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/sub/a.json").write_text("{}")
    os.symlink(tmp_path / "in", tmp_path / "in/sub/again")
    assert [path.name for path in Source(tmp_path / "in").files(".json")] == ["a.json"]


def test_a_pipe_in_place_of_a_file(pipe):
    from msdm_kit.core.manifest import read_manifest
    from msdm_kit.plugins.importers.reading import read_json

    assert "a pipe or a device" in refused(read_json, pipe)
    assert "a pipe or a device" in refused(read_manifest, pipe)
    assert "no such file" in refused(load_recipe, pipe)


def test_json_of_a_name_with_a_line_end_makes_one_line(tmp_path):
    from msdm_kit.plugins.importers.coco import COCO

    content = {
        "images": [{"id": 1, "file_name": "../\n\x1b[31mx", "height": 1, "width": 1}],
        "annotations": [],
        "categories": [],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    said = refused(lambda: list(COCO().fields(Source(tmp_path))))
    assert "leads out of its folder" in said
    assert said.isprintable()


def test_directories_of_a_tiff_that_lead_in_a_circle(tmp_path):
    # two directories of no entries, each of which says that the other is next
    parts = [struct.pack("<HI", 0, 14), struct.pack("<HI", 0, 8)]
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + b"".join(parts) + bytes(16))
    assert "lead in a circle" in refused(read_field_masks, [("nucleus", tmp_path / "a.tif")], tmp_path)


def test_xml_of_an_encoding_that_there_is_not(tmp_path):
    (tmp_path / "a.xml").write_bytes(b'<?xml version="1.0" encoding="x"?><a/>')
    assert "unknown encoding" in refused(list, monuseg._regions(tmp_path / "a.xml"))


def test_a_header_of_npy_that_makes_numpy_warn(tmp_path, recwarn):
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1L, 2L)}\n"
    data = b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text
    assert read_npy_header(io.BytesIO(data), "a.npy")[0] == (1, 2)
    assert not recwarn.list


def test_a_member_of_a_zip_that_is_longer_than_the_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", b"abc")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 20, 2**31)
    (tmp_path / "a.zip").write_bytes(data)
    assert "beyond its end" in refused(open_zip, tmp_path / "a.zip")


class _Forged:
    """A type of numbers whose state says that they are references to objects."""

    def __reduce__(self):
        return np.dtype, ("i8", False, True), (3, "<", None, None, None, -1, -1, 63)


class _Array:
    def __reduce__(self):
        made = np.zeros((0,)).__reduce__()
        return made[0], made[1], (1, (2, 2), _Forged(), False, bytes(range(32)))


def test_numbers_that_claim_to_be_references(tmp_path, capfd):
    with (tmp_path / "a_seg.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump({"masks": _Array()}, file)
    assert "labels are whole numbers" in refused(read_seg, tmp_path / "a_seg.npy")
    assert capfd.readouterr() == ("", "")


def test_safetensors_of_a_shape_of_numbers_that_are_too_large(tmp_path):
    header = {"a": {"dtype": "I64", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}}
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    for read in (load_tensors, read_tensors):
        assert "not a readable safetensors file" in refused(read, tmp_path / "a.safetensors")


@pytest.mark.filterwarnings("error")
def test_headers_of_npy_that_are_nested_or_of_python_2(tmp_path):
    def written(header):
        text = header.encode().ljust(117) + b"\n"
        (tmp_path / "a.npy").write_bytes(
            b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(8)
        )
        return tmp_path / "a.npy"

    with pytest.raises(MsdmError, match=r"is no \.npy file, or damaged \(.+\)") as caught:
        _Mapped(written("[" * 110))
    assert caught.value.__context__ is None, "Python's parser says MemoryError of brackets"
    array = _Mapped(written("{'descr': '<u1', 'fortran_order': False, 'shape': (8L,), }"))
    assert array.shape == (8,)
