import pickle
import zipfile

import pytest
import safetensors
import torch
from safetensors.torch import save_file

from msdm_kit.core.checkpoint import cast, load_tensors, save_tensors
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.files import file_hash

TENSORS = {
    "weights.a": torch.randn(2, 3),
    "half": torch.randn(3).bfloat16(),
    "step": torch.tensor(7.0),
    "ids": torch.arange(4),
    "mask": torch.tensor([True, False]),
    "strided": torch.randn(2, 4, 4, 4).to(memory_format=torch.channels_last),
    "empty": torch.zeros(0, 3),
}
FACTS = {"recipe": {"name": "x", "lr": 1e-4, "none": None}, "step": 3, "words": ["ä", "\n"]}


def fail(path):
    with pytest.raises(MsdmError) as caught:
        load_tensors(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "w.safetensors"
    save_tensors(path, TENSORS, FACTS)
    tensors, facts = load_tensors(path)
    assert tensors.keys() == TENSORS.keys()
    for key, tensor in TENSORS.items():
        assert tensors[key].dtype == tensor.dtype
        assert torch.equal(tensors[key], tensor)
    assert {k: facts[k] for k in FACTS} == FACTS
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]


def test_the_same_content_is_the_same_file(tmp_path):
    for name in "ab":
        save_tensors(tmp_path / name, TENSORS, FACTS)
    assert file_hash(tmp_path / "a") == file_hash(tmp_path / "b")
    save_tensors(tmp_path / "b", TENSORS, FACTS | {"step": 4})
    assert file_hash(tmp_path / "a") != file_hash(tmp_path / "b")


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    save_tensors(tmp_path / "w", TENSORS, FACTS)
    (tmp_path / "plain").touch()
    assert (tmp_path / "w").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disc_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise safetensors.SafetensorError("No space left on device")

    path = tmp_path / "w.safetensors"
    save_tensors(path, TENSORS, FACTS)
    before = path.read_bytes()
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(MsdmError, match=r"cannot write .*No space left"):
        save_tensors(path, TENSORS, FACTS | {"step": 4})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_tied_tensors_and_views(tmp_path):
    a = torch.randn(4, 4)
    save_tensors(tmp_path / "w", {"a": a, "tied": a, "row": a[1], "grown": a[:1].expand(3, 4)}, {})
    tensors, _ = load_tensors(tmp_path / "w")
    assert torch.equal(tensors["a"], a)
    assert torch.equal(tensors["tied"], a)
    assert torch.equal(tensors["row"], a[1])
    assert torch.equal(tensors["grown"], a[:1].expand(3, 4))


def test_gradients_are_left_behind(tmp_path):
    save_tensors(tmp_path / "w", {"p": torch.nn.Parameter(torch.ones(2))}, {})
    assert not load_tensors(tmp_path / "w")[0]["p"].requires_grad


def test_an_overwritten_file_does_not_change_what_was_loaded(tmp_path):
    path = tmp_path / "w"
    save_tensors(path, {"a": torch.zeros(1000)}, {})
    tensors, _ = load_tensors(path)
    save_tensors(path, {"a": torch.ones(1000)}, {})
    assert torch.equal(tensors["a"], torch.zeros(1000))


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_damaged(tmp_path, kept):
    path = tmp_path / "w"
    save_tensors(path, TENSORS, FACTS)
    path.write_bytes(path.read_bytes()[:kept])
    assert "not a readable safetensors file" in fail(path)


def test_missing_and_folder(tmp_path):
    assert "no file" in fail(tmp_path / "none")
    fail(tmp_path)


def test_someone_elses_safetensors(tmp_path):
    for i, metadata in enumerate([None, {"format": "pt"}, {"msdm_kit": "[]"}, {"msdm_kit": "{"}]):
        save_file({"a": torch.zeros(1)}, tmp_path / f"{i}", metadata=metadata)
        assert "no msdm-kit metadata" in fail(tmp_path / f"{i}")


def test_of_another_format(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "w", metadata={"msdm_kit": '{"format": 99}'})
    assert "format 99" in fail(tmp_path / "w")


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


def test_pickles_are_not_opened(tmp_path):
    (tmp_path / "w").write_bytes(pickle.dumps(Bomb()))
    fail(tmp_path / "w")
    torch.save({"a": Bomb()}, tmp_path / "t")
    assert zipfile.is_zipfile(tmp_path / "t")
    fail(tmp_path / "t")


def test_what_is_written_holds_no_pickle(tmp_path):
    save_tensors(tmp_path / "w", TENSORS, FACTS)
    data = (tmp_path / "w").read_bytes()
    assert not zipfile.is_zipfile(tmp_path / "w")
    header = int.from_bytes(data[:8], "little")
    assert data[8:9] == b"{"
    payload = sum(t.numel() * t.element_size() for t in TENSORS.values())
    assert len(data) == 8 + header + payload


def test_cast():
    out = cast(TENSORS, torch.bfloat16)
    assert out["weights.a"].dtype == torch.bfloat16
    assert out["ids"].dtype == torch.int64
    assert out["mask"].dtype == torch.bool
