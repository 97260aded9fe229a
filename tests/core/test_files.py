"""Atomic writes."""

import pytest

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.files import atomic_write, write_bytes, write_text


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
