"""Weights that ``torch.save`` wrote, as safetensors: the one place where pickles of PyTorch are read."""

import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.checkpoint import write_safetensors
from ..core.errors import MsdmError

MOST_BYTES = 2**35
"""Of a file of weights."""
_TIMES = 4
"""Tied tensors are counted as often as they are named, so that their bytes may exceed those of the file."""
_TYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}


def convert_weights(file: str | os.PathLike[str], out: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Write the tensors of a file, under their names, as safetensors.

    Parameters
    ----------
    file : path
        As `read_tensors`.
    out : path
        A file ``*.safetensors`` that is not there yet.

    Returns
    -------
    dict of str -> Tensor
        What was written.

    Raises
    ------
    MsdmError
        As `read_tensors`; or `out` is there, has another suffix, or cannot be written. Nothing is left then.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise MsdmError(f"{out} would hold safetensors; give a name that ends in .safetensors")
    if os.path.lexists(out):
        raise MsdmError(f"{out} is there already; delete it, or choose another name")
    tensors = read_tensors(file)
    # transformers reads no file that does not say so
    write_safetensors(out, tensors, {"format": "pt"})
    return tensors


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file of weights, on the CPU.

    Parameters
    ----------
    path : path
        A ``.safetensors`` file, or one that ``torch.save`` wrote. Of the latter only tensors are read:
        nothing in the file is ever executed.

    Raises
    ------
    MsdmError
        The file is missing, damaged or too large, holds more than tensors, is no flat dict of tensors, or of
        tensors that state more numbers than it has.
    """
    path = Path(path)
    if not path.is_file():
        raise MsdmError(f"no file {path}; give a file of weights (.pt, .bin or .safetensors)")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise MsdmError(f"{path} has {size} bytes, and at most {MOST_BYTES} are read; give a file of weights")
    state = _safe(path) if path.suffix == ".safetensors" else _pickled(path, size)
    if not isinstance(state, dict) or not state or not all(map(_is_named, state.items())):
        raise MsdmError(
            f"{path} is not a flat dict of tensors (an optimiser's state?); give a file of weights alone"
        )
    if odd := [name for name, tensor in state.items() if not _is_plain(tensor)]:
        raise MsdmError(
            f"{path}: {odd[0]:.80} is no dense tensor of real numbers; give a file of plain weights"
        )
    if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > _TIMES * size:
        raise MsdmError(f"{path}: its tensors state more numbers than the file holds; get the file anew")
    return {name: tensor.detach() for name, tensor in state.items()}


def _safe(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, TypeError) as error:
        line = str(error).partition("\n")[0]
        raise MsdmError(f"{path} is not a readable safetensors file: {line}") from error


def _pickled(path: Path, size: int) -> Any:
    try:
        _check_members(path, size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sparse tensors, which are refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except MsdmError:
        raise
    except PermissionError as error:
        raise MsdmError(f"cannot read {path}: {error.strerror}; check its permissions") from None
    except pickle.UnpicklingError as error:
        # torch tells code that it refuses from damage by its words alone
        if "unsupported global" in str(error).lower():
            raise MsdmError(
                f"{path}: this file holds more than tensors; it is not loaded; give a file of weights alone"
            ) from error
        raise MsdmError(f"{path} is damaged or is no file that torch.save wrote") from error
    except Exception as error:  # a damaged pickle fails in any way: struct.error, IndexError, ...
        raise MsdmError(f"{path} is damaged or is no file that torch.save wrote") from error


def _check_members(path: Path, size: int) -> None:
    """Refuse an archive that grows when it is read: torch.save compresses nothing, and its reader unpacks."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":
            _check_age(path)
            return
    with zipfile.ZipFile(path) as archive:
        held = sum(info.file_size for info in archive.infolist())
    if held > size:
        raise MsdmError(f"{path} has {size} bytes and would unpack to {held}; get the file anew")


def _check_age(path: Path) -> None:
    """Refuse an archive of PyTorch before 0.1.10, which its reader unpacks into a folder of its own."""
    try:
        tarfile.open(path, "r:").close()
    except tarfile.TarError:
        return
    raise MsdmError(f"{path} is a tar file; load it and save it again with a PyTorch of today")


def _is_named(item: tuple[Any, Any]) -> bool:
    name, tensor = item
    # a header of safetensors has an entry of its own of this name
    named = isinstance(name, str) and name.isprintable() and name != "__metadata__"
    return named and isinstance(tensor, Tensor)


def _is_plain(tensor: Tensor) -> bool:
    whole = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
    return whole and tensor.dtype in _TYPES and not tensor.is_neg()
