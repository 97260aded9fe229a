"""Atomic writes."""

import errno
import multiprocessing
import os
import time

import pytest

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.files import (
    AppendedFile,
    atomic_write,
    claimed,
    file_hash,
    make_folder,
    remove,
    remove_temporary,
    write_bytes,
    write_text,
)


def test_nothing_is_there_before_the_end_and_only_the_file_after(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with atomic_write(target) as temporary:
        temporary.write_text("half")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "half"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "a.txt"
    write_text(target, "old\n")

    def fail():
        with atomic_write(target) as temporary:
            temporary.write_text("new")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"old\n"


def test_a_disc_that_becomes_read_only_on_the_way(tmp_path, monkeypatch):
    """What cannot be deleted then is no other error; it goes when the disc can be written again."""
    path = tmp_path / "a.txt"
    path.write_text("old")

    def refuse(*args):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        patched.setattr(os, "unlink", refuse)
        with pytest.raises(MsdmError, match=r"cannot write .*a\.txt: .*Read-only file system"):
            write_text(path, "new")
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    remove_temporary(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_new_file_has_the_usual_mode(tmp_path):
    write_bytes(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_folder_in_the_way_is_one_line(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(MsdmError) as caught:
        write_bytes(tmp_path / "a", b"x")
    assert str(tmp_path / "a") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_left_is_deleted_and_nothing_else(tmp_path):
    for name in (".0123456789abcdef.tmp", ".hidden", "a.tmp", ".0123.tmp"):
        (tmp_path / name).touch()
    remove_temporary(tmp_path)
    remove_temporary(tmp_path / "none")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".0123.tmp", ".hidden", "a.tmp"]


def test_a_file_that_is_gone_need_not_be_deleted(tmp_path):
    remove(tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(MsdmError, match="cannot delete"):
        remove(tmp_path / "b")


def test_one_at_a_time(tmp_path):
    path = tmp_path / "job.json"
    path.touch()
    with (
        claimed(path, "at it"),
        pytest.raises(MsdmError, match="another process is at it; let it end"),
        claimed(path, "at it"),
    ):
        pass
    with claimed(path, "at it"), claimed(tmp_path, "in it"):
        pass
    with (
        claimed(tmp_path, "in it"),
        pytest.raises(MsdmError, match="another process is in it"),
        claimed(tmp_path, "in it"),
    ):
        pass


def test_a_folder_is_made_or_there(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(MsdmError, match="cannot make folder"):
        make_folder(tmp_path / "file")


def test_a_lock_ends_with_its_process_whatever_that_has_forked(tmp_path):
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    with claimed(tmp_path, "at it"):
        child = context.Process(target=lambda: (begun.set(), time.sleep(60)))
        child.start()
        assert begun.wait(30)
    try:
        with claimed(tmp_path, "at it"):
            pass
    finally:
        child.kill()
        child.join()


def test_a_file_grows_by_whole_pieces(tmp_path):
    path = tmp_path / "new" / "a"
    for piece in (b"one", b"two"):
        file = AppendedFile(path)
        file.append(piece)
        file.append(b".")
        file.close()
    assert path.read_bytes() == b"one.two."


def test_hashes_tell_files_apart(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
