"""Images and masks on disc."""

import struct
import warnings
import zlib
from functools import partial

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.images import read_image, read_labels, save_image, save_labels, to_float, to_uint8


def refuse(call, path, *words):
    with pytest.raises(MsdmError) as caught:
        call(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


def test_the_scale_is_exact_at_the_ends_and_every_level_comes_back():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    image = to_float(levels)
    assert image.shape == (3, 16, 16)
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    assert (image.min(), image.max()) == (-1, 1)
    assert np.array_equal(to_uint8(image), levels)


def test_levels_are_rounded_to_the_nearest_and_clipped():
    # 0 is the one number in [-1, 1] that floating point puts exactly between two levels, 127 and 128.
    levels = np.array([0.4, 1.6, 2.4, -9.0, 999.0, 127.5])
    image = (levels / 127.5 - 1).reshape(1, 1, 6).repeat(3, axis=0)
    assert to_uint8(image)[0, :, 0].tolist() == [0, 2, 2, 0, 255, 128]


def test_image_round_trip(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    save_image(tmp_path / "a.png", to_float(levels))
    assert np.array_equal(read_image(tmp_path / "a.png"), levels)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@given(arrays(np.int32, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 65535)))
def test_labels_round_trip(tmp_path_factory, labels):
    path = tmp_path_factory.getbasetemp() / "labels.png"
    save_labels(path, labels)
    back = read_labels(path)
    assert back.dtype == np.uint16
    assert np.array_equal(back, labels)


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_tiff(tmp_path, order):
    labels = np.array([[0, 300], [65535, 1]])
    Image.frombytes("I;16" if order == "<u2" else "I;16B", (2, 2), labels.astype(order).tobytes()).save(
        tmp_path / "a.tif"
    )
    assert np.array_equal(read_labels(tmp_path / "a.tif"), labels)
    Image.new("RGB", (2, 3), (1, 2, 3)).save(tmp_path / "b.tiff")
    assert read_image(tmp_path / "b.tiff")[2, 1].tolist() == [1, 2, 3]


def test_8_bit_labels(tmp_path):
    Image.fromarray(np.array([[0, 200]], np.uint8)).save(tmp_path / "a.png")
    assert read_labels(tmp_path / "a.png").tolist() == [[0, 200]]


@pytest.mark.parametrize("labels", [np.array([[70000]]), np.array([[-1]]), np.ones((2, 2)), np.ones(3, int)])
def test_labels_that_do_not_fit(tmp_path, labels):
    refuse(
        lambda path: save_labels(path, labels), tmp_path / "a.png", "labels" if labels.size > 1 else "label "
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), np.full((3, 2, 2), np.nan), np.zeros((4, 4))])
def test_images_that_are_none(tmp_path, image):
    with pytest.raises(MsdmError):
        save_image(tmp_path / "a.png", image)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "suffix", "words"),
    [
        ("L", "png", "8-bit greyscale"),
        ("P", "png", "palette"),
        ("RGBA", "png", "8-bit RGBA"),
        ("CMYK", "tif", "8-bit CMYK"),
        ("I;16", "png", "16-bit greyscale"),
        ("1", "png", "1-bit"),
        ("F", "tif", "32-bit float"),
    ],
)
def test_images_of_other_types(tmp_path, mode, suffix, words):
    path = tmp_path / f"a.{suffix}"
    Image.new(mode, (4, 4)).save(path)
    refuse(read_image, path, words, "8-bit RGB;", "rescale" if mode in ("I;16", "F") else "convert('RGB')")


@pytest.mark.parametrize(
    ("mode", "suffix", "words"),
    [
        ("RGB", "png", "8-bit RGB"),
        ("P", "png", "palette"),
        ("LA", "png", "alpha"),
        ("1", "png", "1-bit"),
        ("I", "tif", "32-bit integer"),
        ("F", "tif", "32-bit float"),
    ],
)
def test_masks_of_other_types(tmp_path, mode, suffix, words):
    path = tmp_path / f"a.{suffix}"
    Image.new(mode, (4, 4)).save(path)
    refuse(read_labels, path, words, "uint16 or uint8")


def set_depth(path, depth, colour, rows):
    """A PNG whose bit depth Pillow cannot write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 4, len(rows), depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_16_bit_rgb_is_not_read_as_8_bit(tmp_path):
    set_depth(tmp_path / "a.png", 16, 2, [bytes(24)] * 4)
    assert Image.open(tmp_path / "a.png").mode == "RGB"
    refuse(read_image, tmp_path / "a.png", "16-bit RGB", "rescale")


def test_4_bit_labels_are_not_scaled(tmp_path):
    set_depth(tmp_path / "a.png", 4, 0, [bytes(2)] * 4)
    refuse(read_labels, tmp_path / "a.png", "4-bit greyscale")


@pytest.mark.parametrize("read", [read_image, read_labels])
@pytest.mark.parametrize("keep", [0, 10, 30, 60, 0.5, 0.9])
def test_a_file_cut_short(tmp_path, read, keep):
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0)
    if read is read_image:
        save_image(path, to_float(noise.integers(0, 256, (32, 32, 3), np.uint8)))
    else:
        save_labels(path, noise.integers(0, 65536, (32, 32)))
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    refuse(read, path)


@pytest.mark.parametrize(
    "write",
    [
        partial(tifffile.imwrite, compression="zlib"),
        partial(tifffile.imwrite, compression="zlib", rowsperstrip=4, byteorder=">"),
        partial(tifffile.imwrite, compression="zlib", tile=(16, 16), bigtiff=True),
        lambda path, array: Image.fromarray(array).save(path, compression="tiff_lzw"),
    ],
    ids=["strip", "strips", "tiles", "Pillow"],
)
@pytest.mark.filterwarnings("error")
def test_a_compressed_tiff_cut_short_is_one_line(tmp_path, capfd, write):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    write(tmp_path / "a.tif", noise)
    assert np.array_equal(read_labels(tmp_path / "a.tif"), noise)
    whole = (tmp_path / "a.tif").read_bytes()
    for cut in (1, 60, 300, len(whole) // 2):
        (tmp_path / "a.tif").write_bytes(whole[:-cut])
        refuse(read_labels, tmp_path / "a.tif", f"the file has {len(whole) - cut} bytes", "it is cut short")
    assert capfd.readouterr() == ("", ""), "neither libtiff nor Pillow prints a line"


def test_a_damaged_header(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    data = bytearray(path.read_bytes())
    data[20] ^= 0xFF
    path.write_bytes(data)
    refuse(read_image, path)


def test_other_formats_and_missing_files(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", format="JPEG")
    refuse(read_image, tmp_path / "a.png", "not a PNG or TIFF")
    refuse(read_image, tmp_path / "b.png", "is missing")


def test_several_pictures_in_one_file(tmp_path):
    page = Image.new("L", (4, 4))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    refuse(read_labels, tmp_path / "a.tif", "2 pictures")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11, 40])
def test_decompression_bombs(tmp_path, monkeypatch, side):
    Image.new("RGB", (side, side)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    refuse(read_image, tmp_path / "a.png", "more than 100 pixels")


def test_a_bomb_is_an_error_where_warnings_are(tmp_path, monkeypatch):
    Image.new("RGB", (11, 11)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refuse(read_image, tmp_path / "a.png", "more than 100 pixels")


def test_a_chunk_of_a_png_that_says_more_than_the_file_has(tmp_path):
    """Pillow asks for that many bytes of memory."""
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(path)
    data = path.read_bytes()
    at = data.index(b"IDAT") - 4
    path.write_bytes(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :])
    refuse(read_labels, path, "its chunk 'IDAT' says 4294967295 bytes, which the file is too short for")
    path.write_bytes(data + b"behind its end")
    assert read_labels(path).shape == (12, 16)
    path.write_bytes(data[:at] + (b"\0\0\0\0teXt" + b"\0\0\0\0") * 2**20 + data[at:])
    refuse(read_labels, path, "more than 1048576 chunks")
