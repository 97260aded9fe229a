"""Weights and checkpoints: safetensors that carry what made them. Nothing on disk is a pickle."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import MsdmError
from .files import atomic_write
from .reading import parse_json

KEY = "msdm_kit"
DIGEST = "sha256"
FORMAT = 1


class DamagedFile(MsdmError):
    """A file that was written whole and is not whole any more, or never was one of ours."""


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
        JSON only; kept in the file's metadata, beside a SHA-256 of them and of every tensor.

    Raises
    ------
    MsdmError
        The file cannot be written; what was there before is untouched.
    """
    plain = _unshared(tensors)
    about = {"format": FORMAT, **facts}
    # within the one entry: several would come in any order, and the same content be another file
    _write(path, plain, {KEY: json.dumps({**about, DIGEST: tensors_hash(plain, json.dumps(about))})})


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors as safetensors for any reader, atomically: as `save_tensors`, without facts.

    Raises
    ------
    MsdmError
        The file cannot be written; what was there before is untouched.
    """
    _write(path, _unshared(tensors), metadata)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in memory that no two of them share, which safetensors refuses."""
    plain: dict[str, Tensor] = {}
    held: set[int] = set()
    for name, tensor in tensors.items():
        plain[name] = tensor.detach().cpu().contiguous()
        storage = plain[name].untyped_storage().data_ptr()
        if storage in held:
            plain[name] = plain[name].clone()
        held.add(storage)
    return plain


def _write(path: str | os.PathLike[str], plain: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_write(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(dict(plain), temporary, metadata=dict(metadata))
            temporary.chmod(mode)  # safetensors makes files that only their owner can read
        except SafetensorError as error:
            raise OSError(str(error)) from error  # a full disc, among others: safetensors has its own word


def tensors_hash(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """SHA-256 of a text, and of every tensor's name, type, shape and bytes, in hexadecimal."""
    found = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def load_tensors(
    path: str | os.PathLike[str], *, sealed: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote; its SHA-256 is checked.

    Parameters
    ----------
    path : path
    sealed : bool
        Whether a file without a SHA-256 counts as damaged. Weights from elsewhere may have none.

    Returns
    -------
    tensors : dict of str -> Tensor
        On the CPU.
    facts : dict

    Raises
    ------
    DamagedFile
        The file is damaged, or it is not msdm-kit's.
    MsdmError
        There is no such file, or it is of another version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise MsdmError(f"no file {path}") from None
    except PermissionError as error:
        raise MsdmError(f"cannot read {path}: {error.strerror}; check its permissions") from None
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: a shape of numbers that are too large
        cause = str(error).partition("\n")[0]
        raise DamagedFile(f"{path} is not a readable safetensors file: {cause}") from None
    try:
        facts = parse_json(metadata[KEY])
        number, digest = facts["format"], facts.pop(DIGEST, None)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise DamagedFile(
            f"{path} holds no msdm-kit metadata; weights of the SDM reference come in by 'msdm-kit convert'"
        ) from None
    if (digest is not None or sealed) and digest != tensors_hash(tensors, json.dumps(facts)):
        raise DamagedFile(f"{path} is damaged: its bits are not those that were written (SHA-256)")
    if number != FORMAT:
        raise MsdmError(
            f"{path} has format {number}, this version reads {FORMAT}; use the version of msdm-kit that "
            f"wrote it"
        )
    return tensors, facts


def load_facts(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The facts of a file alone, unchecked; None where there is none to be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as f:
            found = parse_json((f.metadata() or {})[KEY])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors with floating-point ones in `dtype`."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
