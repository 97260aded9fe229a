"""Reading files that are not trusted, and what is said of them."""

import os

import pytest

from msdm_kit.core.checkpoint import load_facts, load_tensors
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.reading import is_file, parse_json, read_bytes, read_text


def test_a_file_is_read_whole(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert read_bytes(tmp_path / "a", 7) == b"\xef\xbb\xbfa\r\nb"
    assert read_text(tmp_path / "a") == "a\r\nb"


def test_what_is_too_large_or_no_file_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"1234")
    with pytest.raises(OSError, match="it has 4 bytes, and at most 3 are read"):
        read_bytes(tmp_path / "a", 3)
    with pytest.raises(OSError, match="it is no file but a folder, a pipe or a device"):
        read_bytes(tmp_path, 3)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "b", 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a pipe or a device"):
        read_bytes(tmp_path / "pipe", 3)
    assert not is_file(tmp_path / "pipe")


def test_is_file(tmp_path):
    (tmp_path / "a").touch()
    os.symlink(tmp_path / "a", tmp_path / "link")
    os.symlink("loop", tmp_path / "loop")
    assert is_file(tmp_path / "a")
    assert is_file(tmp_path / "link")
    for name in ("loop", "none", "x" * 300, "a\0b", "."):
        assert not is_file(tmp_path / name)


def test_deep_json_is_a_value_error():
    assert parse_json('{"a": [1]}') == {"a": [1]}
    for text in ("[" * 100_000, "{", "1" * 5000):
        with pytest.raises(ValueError):  # noqa: PT011 (json has several)
            parse_json(text)


def test_weights_whose_facts_are_nested_deeply(tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", metadata={"msdm_kit": "[" * 100_000})
    with pytest.raises(MsdmError, match="holds no msdm-kit metadata"):
        load_tensors(tmp_path / "w.safetensors")
    assert load_facts(tmp_path / "w.safetensors") is None


def test_a_message_is_one_printable_line():
    assert (
        str(MsdmError("a\nb\x1b[31m\u202e\ud800"))
        == "a b\N{REPLACEMENT CHARACTER}[31m" + "\N{REPLACEMENT CHARACTER}" * 2
    )
    long = str(MsdmError("begin " + "x" * 10**6 + " end"))
    assert long.startswith("begin x")
    assert long.endswith("x end")
    assert len(long) < 2000
