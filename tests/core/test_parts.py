"""Parts of tensors on the disc: what so many processes write, any other number of them reads to the bit."""

import os

import pytest
import torch
import torch.distributed.checkpoint.hf_storage  # here, and not in every process that is forked
import torch.distributed.tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from msdm_kit.core import parts
from msdm_kit.core.checkpoint import DamagedFile
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.parts import outlines, read_parts, write_parts
from msdm_kit.core.processes import joined
from msdm_kit.core.sharding import own_part

from ..ranks import in_ranks

TENSORS = {
    "even": torch.arange(8 * 3.0).reshape(8, 3),
    "uneven": torch.arange(5 * 2 * 3.0).reshape(5, 2, 3),
    "one row": torch.tensor([[1.0, -0.0]]),
    "half": torch.linspace(0, 1, 9).to(torch.bfloat16),
    "counts": torch.arange(7),
}
PLAIN = {"step": torch.tensor(3.0), "buffer": torch.tensor([True, False]), "wide": torch.tensor([1.0, 2.0])}
ALL = TENSORS | PLAIN


def split(tensors, count):
    """The tensors as so many processes hold them."""
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (count,))
    shard = [torch.distributed.tensor.Shard(0)]
    return {
        n: torch.distributed.tensor.distribute_tensor(t, mesh, shard, src_data_rank=None)
        for n, t in tensors.items()
    }


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def write(folder, count, tmp_path):
    def part(rank):
        with joined() as here:
            return write_parts(folder, split(TENSORS, count) | PLAIN, here.rank)

    return in_ranks(count, part, tmp_path / f"write {count}")


@pytest.mark.parametrize("writers", [2, 3])
def test_any_number_of_processes_reads_the_same_bits(tmp_path, writers, monkeypatch):
    monkeypatch.setattr(parts, "PIECE", 100)
    folder = tmp_path / "parts"
    told = write(folder, writers, tmp_path)
    assert sorted(os.listdir(folder)) == sorted(name for names in told for name in names)
    assert all(name.startswith(f"shard-{k + 1:05d}-") for k, names in enumerate(told) for name in names)
    assert len(told[0]) > 1, "small files, as memory holds each twice"
    found = outlines(folder)
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {
        n: (t.shape, t.dtype) for n, t in ALL.items()
    }
    alone = {n: torch.empty_like(t) for n, t in ALL.items()}
    read_parts(folder, alone)
    assert {n: bits(t) for n, t in alone.items()} == {n: bits(t) for n, t in ALL.items()}

    def read(rank):
        with joined() as here:
            empty = {n: torch.full_like(t, 0) for n, t in TENSORS.items()}
            own = split(empty, here.count) | {n: torch.zeros_like(t) for n, t in PLAIN.items()}
            read_parts(folder, own)
            wanted = split(TENSORS, here.count) | PLAIN
            return all(bits(own_part(own[n])) == bits(own_part(wanted[n])) for n in own)

    assert in_ranks(4, read, tmp_path / "read") == [True] * 4


def test_each_process_reads_and_writes_its_part_alone(tmp_path):
    folder = tmp_path / "parts"
    write(folder, 2, tmp_path)
    sizes = [(folder / f"shard-{k:05d}-model-00001-of-00001.safetensors").stat().st_size for k in (1, 2)]
    whole = sum(t.nbytes for t in TENSORS.values())
    assert all(size < whole / 2 + 2000 for size in sizes)
    # what is asked for comes, and nothing else
    some = {"uneven": torch.zeros(5, 2, 3)}
    read_parts(folder, some)
    assert torch.equal(some["uneven"], TENSORS["uneven"])


def test_nothing_on_the_disc_is_a_pickle(tmp_path):
    folder = tmp_path / "parts"
    write(folder, 2, tmp_path)
    for path in folder.iterdir():
        head = path.read_bytes()
        assert path.suffix == ".safetensors"
        assert head[8:9] == b"{"
        assert b"\x80\x02" not in head[:10]


def test_a_part_that_is_missing_is_told(tmp_path):
    folder = tmp_path / "parts"
    told = write(folder, 2, tmp_path)
    (folder / told[0][0]).unlink()
    with pytest.raises(DamagedFile, match="parts lacks a part of "):
        outlines(folder)
    with pytest.raises(DamagedFile, match="no readable parts"):
        read_parts(folder, {"step": torch.zeros(())})


@pytest.mark.parametrize(
    "info",
    [
        "[",
        "[]",
        '{"w": {}}',
        '{"w": {"saved_offsets": [1]}}',
        '{"w": {"saved_offsets": ["a", "b"]}}',
        "9" * 5000,
    ],
)
def test_files_of_others_are_damaged_ones(tmp_path, info):
    save_file({"w": torch.ones(2, 2)}, tmp_path / "x.safetensors", {"DCP_SHARDING_INFO": info})
    with pytest.raises(DamagedFile) as caught:
        read_parts(tmp_path, {"w": torch.zeros(2, 2)} | {n: t for n, t in outlines(tmp_path).items()})
    assert str(caught.value).isprintable()
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(DamagedFile, match="no readable parts"):
        outlines(tmp_path)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=20), st.integers(1, 400))
def test_files_hold_what_fits_or_one_tensor(sizes, most):
    tensors = {f"t{k}": torch.zeros(size, dtype=torch.uint8) for k, size in enumerate(sizes)}
    before, parts.PIECE = parts.PIECE, most
    try:
        numbers = parts._files(tensors)
    finally:
        parts.PIECE = before
    assert numbers.keys() == tensors.keys()
    held = {k: [t.nbytes for n, t in tensors.items() if numbers[n] == k] for k in set(numbers.values())}
    assert sorted(held) == list(range(1, len(held) + 1))
    assert all(sum(sizes) <= most or len([s for s in sizes if s]) == 1 for sizes in held.values())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MsdmError, match="cannot make folder"):
        write_parts(tmp_path / "file", {"w": torch.ones(2)}, 0)
    assert write_parts(tmp_path / "file", {"w": torch.ones(2)}, 1) == [], (
        "the leader writes what is not split"
    )
