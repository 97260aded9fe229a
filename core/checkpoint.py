"""Weights and checkpoints: safetensors that carry what made them. Nothing on disk is a pickle."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import MsdmError
from .files import atomic_write

KEY = "msdm_kit"
FORMAT = 1


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Write tensors and JSON facts as one safetensors file, atomically.

    Parameters
    ----------
    path : path
    tensors : mapping name -> Tensor
        On any device, of any dtype that safetensors holds. Tied ones are written as often as they are named.
    facts : mapping
        JSON only; kept in the file's metadata.

    Raises
    ------
    MsdmError
        The file cannot be written; what was there before is untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain: dict[str, Tensor] = {}
    held: set[int] = set()
    for name, tensor in tensors.items():
        plain[name] = tensor.detach().cpu().contiguous()
        storage = plain[name].untyped_storage().data_ptr()
        if storage in held:
            # safetensors refuses tensors that share memory
            plain[name] = plain[name].clone()
        held.add(storage)
    metadata = {KEY: json.dumps({"format": FORMAT, **facts})}
    with atomic_write(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(plain, temporary, metadata=metadata)
            temporary.chmod(mode)  # safetensors makes files that only their owner can read
        except SafetensorError as error:
            raise OSError(str(error)) from error  # a full disc, among others: safetensors has its own word


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Returns
    -------
    tensors : dict of str -> Tensor
        On the CPU.
    facts : dict

    Raises
    ------
    MsdmError
        There is no such file, it is damaged, or it is not msdm-kit's.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise MsdmError(f"no file {path}") from None
    except (SafetensorError, OSError) as error:
        raise MsdmError(f"{path} is not a readable safetensors file: {error}") from None
    try:
        facts = json.loads(metadata[KEY])
        if facts["format"] != FORMAT:
            raise MsdmError(
                f"{path} has format {facts['format']}, this version reads {FORMAT}; use the version of "
                f"msdm-kit that wrote it"
            )
    except (KeyError, TypeError, json.JSONDecodeError):
        raise MsdmError(
            f"{path} holds no msdm-kit metadata; weights of the SDM reference come in by 'msdm-kit convert'"
        ) from None
    return tensors, facts


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors with floating-point ones in `dtype`."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
