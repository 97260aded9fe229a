"""Weights that torch.save wrote become safetensors of the same bits, and nothing in them is run."""

import os
import tarfile
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins import convert_weights as module
from msdm_kit.plugins.convert_weights import convert_weights, read_tensors


class Unwelcome:
    """Not a tensor."""


class Runs:
    """Runs a command where it is unpickled without care."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def state():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4, dtype=torch.bfloat16))
    return model.state_dict()  # with _metadata, and num_batches_tracked of no dimension


def refusal(path):
    with pytest.raises(MsdmError) as caught:
        read_tensors(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_every_bit_is_carried_over(tmp_path, state, zipped):
    torch.save(state, tmp_path / "model.bin", _use_new_zipfile_serialization=zipped)
    convert_weights(tmp_path / "model.bin", tmp_path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(0, 3), max_size=4),
    dtype=st.sampled_from(sorted(module._TYPES, key=str)),
    transposed=st.booleans(),
)
def test_tensors_of_any_shape_and_type(tmp_path_factory, shape, dtype, transposed):
    folder = tmp_path_factory.mktemp("weights")
    tensor = torch.randint(0, 2, shape).to(dtype)
    tensor = tensor.mT if transposed and tensor.ndim > 1 else tensor
    torch.save({"a": tensor}, folder / "a.pt")
    convert_weights(folder / "a.pt", folder / "a.safetensors")
    assert torch.equal(load_file(folder / "a.safetensors")["a"], tensor)


def test_tensors_that_share_memory(tmp_path):
    table = torch.arange(600.0).view(30, 20)
    state = {"embedding": table, "decoder": table, "turned": table.T, "part": table[3:5], "parameter": table}
    state["parameter"] = nn.Parameter(table)
    torch.save(state, tmp_path / "tied.bin")
    convert_weights(tmp_path / "tied.bin", tmp_path / "tied.safetensors")
    found = load_file(tmp_path / "tied.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("there", ["file", "link"])
def test_what_is_there_stays(tmp_path, state, there):
    torch.save(state, tmp_path / "a.bin")
    out = tmp_path / "a.safetensors"
    if there == "file":
        out.write_bytes(b"mine")
    else:
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(MsdmError, match="is there already"):
        convert_weights(tmp_path / "a.bin", out)
    assert out.is_symlink() if there == "link" else out.read_bytes() == b"mine"
    with pytest.raises(MsdmError, match=r"ends in \.safetensors"):
        convert_weights(tmp_path / "a.bin", tmp_path / "b.bin")
    assert len(list(tmp_path.iterdir())) == 2


def test_both_formats_are_read(tmp_path, state):
    torch.save(state, tmp_path / "ema_0.9999_000100.pt")
    save_file(state, tmp_path / "ema.safetensors")
    for name in ("ema_0.9999_000100.pt", "ema.safetensors"):
        read = read_tensors(tmp_path / name)
        assert read.keys() == state.keys()
        assert all(torch.equal(read[k], v) for k, v in state.items())


def test_missing_file(tmp_path):
    assert refusal(tmp_path / "model.pt").startswith("no file")


def test_code_objects_are_not_loaded(tmp_path):
    for extra in (Unwelcome(), Runs(tmp_path / "ran")):
        torch.save({"weight": torch.zeros(1), "extra": extra}, tmp_path / "model.pt")
        assert "holds more than tensors; it is not loaded" in refusal(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"state": {0: torch.zeros(1)}},
        [torch.zeros(1)],
        {},
        {"step": 3},
        {3: torch.zeros(1)},
        {"__metadata__": torch.zeros(1)},
        {"a\nb": torch.zeros(1)},
        {"\ud800": torch.zeros(1)},
    ],
)
def test_no_flat_dict_of_tensors(tmp_path, content):
    torch.save(content, tmp_path / "opt000100.pt")
    assert "not a flat dict of tensors" in refusal(tmp_path / "opt000100.pt")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, device="meta"),
    ],
    ids=["sparse", "complex", "meta"],
)
def test_no_plain_tensor(tmp_path, tensor):
    torch.save({"fine": torch.zeros(1), "odd": tensor}, tmp_path / "odd.pt")
    assert "odd is no dense tensor" in refusal(tmp_path / "odd.pt")


def test_tensors_that_state_more_than_the_file_holds(tmp_path):
    torch.save({"a": torch.zeros(1).expand(2**20, 2**20)}, tmp_path / "wide.pt")
    assert "more numbers than the file holds" in refusal(tmp_path / "wide.pt")


def test_archives_that_unpack_to_more_than_they_are(tmp_path):
    torch.save({"a": torch.zeros(2**20)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for info in plain.infolist():
            bomb.writestr(info.filename, plain.read(info))
    assert "would unpack to" in refusal(tmp_path / "bomb.pt")


def test_files_of_more_bytes_than_are_read(tmp_path, state, monkeypatch):
    torch.save(state, tmp_path / "a.pt")
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    assert "at most 100 are read" in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short", b"\x80\x02}q\x00(X"])
def test_damaged_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refusal(tmp_path / name)


def test_cut_short_anywhere(tmp_path, state):
    torch.save(state, tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    for end in range(0, len(data), len(data) // 20):
        (tmp_path / "cut.pt").write_bytes(data[:end])
        refusal(tmp_path / "cut.pt")


def test_a_tar_of_an_old_pytorch_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    """PyTorch's reader unpacks it into a folder of its own first."""
    with tarfile.open(tmp_path / "model.pt", "w:") as archive:
        archive.add(__file__, "storages")
    monkeypatch.setattr(module.torch, "load", None)
    assert "is a tar file" in refusal(tmp_path / "model.pt")
