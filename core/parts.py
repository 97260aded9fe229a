"""Tensors on the disc as they are split among processes: each writes its parts, any number of them reads.

`torch.distributed.checkpoint` does both, in its layout of safetensors files: its default one has a pickle.
"""

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import DamagedFile
from .errors import MsdmError
from .files import make_folder, remove_folder, sync_folder
from .sharding import is_split, own_part

PIECE = 2**30
"""Bytes of a process's parts that go into one file, and are in memory twice while it is written."""


def write_parts(folder: Path, tensors: Mapping[str, Tensor], rank: int) -> list[str]:
    """Write what this process holds of tensors; of those that are not split, the leader writes them.

    Parameters
    ----------
    folder : Path
        The same for all processes, and of nothing else; made where it is missing.
    tensors : mapping name -> Tensor
        As they are, or split.
    rank : int

    Returns
    -------
    list of str
        Names of the files: none where this process holds nothing.

    Raises
    ------
    MsdmError
        A file cannot be written.
    """
    from safetensors import SafetensorError
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    own = {n: t.detach() for n, t in tensors.items() if _writes(t, rank)}
    if not own:
        return []
    desk = folder / f"{rank}"
    make_folder(desk)
    try:
        with _alone():
            writer = HuggingFaceStorageWriter(
                str(desk), fqn_to_index_mapping=_files(own), save_distributed=True
            )
            # each for itself: together they would exchange pickles
            save(dict(own), storage_writer=writer, no_dist=True)
        names = []
        for path in sorted(desk.iterdir()):
            # every process took itself for the first
            name = path.name.replace("shard-00001", f"shard-{rank + 1:05d}")
            os.replace(path, folder / name)
            names.append(name)
        remove_folder(desk)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        raise MsdmError(
            f"cannot write {folder}: {error}; check the folder's permissions and the space on the disc"
        ) from error
    return names


def _writes(tensor: Tensor, rank: int) -> bool:
    if not is_split(tensor):
        return rank == 0
    # nothing is held of a tensor with fewer rows than processes
    return own_part(tensor).numel() > 0


def _files(own: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of the file, from 1, that each tensor goes into."""
    numbers, size, number = {}, 0, 1
    for name, tensor in own.items():
        needs = own_part(tensor).nbytes
        if size and size + needs > PIECE:
            size, number = 0, number + 1
        size += needs
        numbers[name] = number
    return numbers


def outlines(folder: Path) -> dict[str, Tensor]:
    """The tensors that the files of a folder hold, in full, without memory: on the device ``meta``.

    Raises
    ------
    DamagedFile
        The files are not those that `write_parts` writes, or not all of them.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
        sizes = {}
        for name, about in found.items():
            assert isinstance(about, TensorStorageMetadata)
            held = sum(math.prod(chunk.sizes) for chunk in about.chunks)
            if held != math.prod(about.size):
                raise DamagedFile(f"{folder} lacks a part of {name}")
            sizes[name] = torch.empty(about.size, dtype=about.properties.dtype, device="meta")
    except MsdmError:
        raise
    except Exception as error:  # torch trusts what it reads
        raise _unreadable(folder, error) from None
    return sizes


def read_parts(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Fill tensors with what a folder holds; each process reads what it holds of them.

    Parameters
    ----------
    folder : Path
        That `write_parts` wrote, in however many processes.
    into : mapping name -> Tensor
        Tensors of the shapes that the folder holds, as they are, or split; on any device.

    Raises
    ------
    DamagedFile
        A file is not one that `write_parts` writes.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with _alone():
            load(dict(into), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except Exception as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> DamagedFile:
    cause = (str(error).splitlines() or [type(error).__name__])[0]
    return DamagedFile(f"{folder} holds no readable parts of tensors: {cause:.200}")


@contextmanager
def _alone() -> Iterator[None]:
    """Without torch's warning that a process reads or writes for itself, and its wrapper of errors."""
    from torch.distributed.checkpoint.api import CheckpointException

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            yield
        except CheckpointException as error:  # no Exception, and it holds any, KeyboardInterrupt too
            cause, _ = next(iter(error.failures.values()))
            raise cause from None
