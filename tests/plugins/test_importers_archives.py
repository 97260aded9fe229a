"""Archives and folds that are damaged, or made to do harm: one line each, and nothing is written."""

import io
import zipfile
from functools import partial

import numpy as np
import pytest

from .test_importers_damage import refused
from .test_importers_layouts import SQUARE, fold, picture


@pytest.fixture
def refuses(tmp_path):
    return partial(refused, tmp_path)


def npy(shape, dtype="<f8"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def archive(folder, members):
    folder.mkdir()
    with zipfile.ZipFile(folder / "fold.zip", "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(name, data)


FOLD = {"images.npy": npy((1, 8, 8, 3)) + bytes(8 * 192), "masks.npy": npy((1, 8, 8, 6)) + bytes(8 * 384)}


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"images.npy": npy((1, 10**5, 10**5, 3)) + bytes(99)}, "of (1, 100000, 100000, 3) has another size"),
        ({"images.npy": npy((1, 8, 8, 3)) + bytes(8 * 191)}, "has another size"),
        ({"images.npy": npy((1, 8, 8, 4)) + bytes(8 * 256)}, "those of PanNuke are"),
        ({"images.npy": b"none"}, "is no .npy file, or damaged"),
        ({"images.npy": npy((1,), "|O") + bytes(8)}, "holds Python objects (a pickle)"),
        ({"types.npy": npy((1,), "|O") + bytes(8)}, "holds Python objects (a pickle)"),
        ({"types.npy": npy((2,), "<U3") + bytes(24)}, "types are 1 words"),
        ({"../images.npy": b""}, "'../images.npy', which leads out of its folder"),
        ({"/etc/images.npy": b""}, "leads out of its folder"),
        ({"..\\masks.npy": b""}, "leads out of its folder"),
        ({"images.npy": npy((1, 8, 8, 3)) + np.full(192, 300.0).tobytes()}, "legal are 0 to 255"),
        ({"masks.npy": npy((1, 8, 8, 6)) + np.full(384, 0.5).tobytes()}, "labels are whole numbers"),
        ({"masks.npy": npy((1, 8, 8, 6)) + np.full(384, np.nan).tobytes()}, "labels are whole numbers"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)  # fmt: skip
def test_archives_that_are_wrong(tmp_path, refuses, members, says):
    archive(tmp_path / "set", {**FOLD, **members})
    refuses("fold.zip", says)


def test_a_zip_bomb_is_refused_by_what_it_declares(tmp_path, refuses, monkeypatch):
    from msdm_kit.plugins.importers import archive as module

    archive(tmp_path / "set", {**FOLD, "more.bin": bytes(10**6)})
    monkeypatch.setattr(module, "MAX_ARCHIVE", 10**6)
    with monkeypatch.context() as unread:
        unread.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was read"))
        refuses("fold.zip declares 100", "bytes unpacked")


def test_words_that_are_a_bomb(tmp_path, refuses, monkeypatch):
    from msdm_kit.plugins.importers import pannuke

    archive(tmp_path / "set", {**FOLD, "types.npy": npy((1,), "|S900") + bytes(900)})
    monkeypatch.setattr(pannuke, "_MAX_TYPES", 900)
    refuses("types.npy declares 10", "is it a bomb?")


def test_an_archive_that_is_cut_short_or_damaged(tmp_path, refuses):
    archive(tmp_path / "set", {**FOLD, "images.npy": npy((1, 8, 8, 3)) + np.arange(192.0).tobytes()})
    path = tmp_path / "set/fold.zip"
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)
    refuses("fold.zip", "damaged")
    path.write_bytes(data[:-40])
    refuses("fold.zip is no ZIP archive, or damaged", "copy it again")


def test_a_damaged_fold_is_not_passed_over_beside_a_sound_one(tmp_path, refuses):
    archive(tmp_path / "set", FOLD)
    path = tmp_path / "set/fold.zip"
    (tmp_path / "set/fold_2.zip").write_bytes(path.read_bytes()[:-40])
    refuses("fold_2.zip is no ZIP archive, or damaged")


def test_a_fold_that_is_cut_short(tmp_path, refuses):
    fold(tmp_path / "set", "fold1")
    path = tmp_path / "set/fold1/masks/masks.npy"
    path.write_bytes(path.read_bytes()[:-8])
    refuses("masks.npy is shorter than its header says")
    path.unlink()
    refuses("is of no format that is known")


def test_roi_archives_that_are_wrong(tmp_path, refuses, monkeypatch):
    from roifile import ImagejRoi

    from msdm_kit.plugins.importers import nuinsseg

    organ = tmp_path / "set/organ"
    picture(organ / "tissue images/a.png")
    (organ / "Imagej_zips").mkdir()
    path = organ / "Imagej_zips/a.zip"
    for name, data, says in (
        ("1.roi", ImagejRoi.frompoints(np.array(SQUARE)).tobytes()[:70], "is no region of ImageJ"),
        ("1.roi", b"x", "is no region of ImageJ"),
        ("../1.roi", b"", "leads out of its folder"),
    ):
        with zipfile.ZipFile(path, "w") as made:
            made.writestr(name, data)
        refuses("a.zip", says)
    monkeypatch.setattr(nuinsseg, "_MAX_ROI", 10)
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("1.roi", bytes(11))
    refuses("declares 11 bytes unpacked, and at most 10 are read")
    path.unlink()
    refuses("has no label masks and no outlines", format="nuinsseg")
