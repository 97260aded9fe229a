"""Where a pretrained model is: never asked of the network."""

import re
import shlex
from pathlib import Path

from .errors import MsdmError


def find_model(model: str, what: str, otherwise: str) -> Path:
    """The folder of a pretrained model, with a ``config.json``.

    Parameters
    ----------
    model : str
        A folder, or the id of a model in the local Hugging Face cache.
    what : str
        Such as ``text model``, for messages.
    otherwise : str
        What else can be done, for messages.

    Returns
    -------
    Path

    Raises
    ------
    MsdmError
        There is no such folder, nor such a model in the cache. The network is not asked.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", model):
        raise MsdmError(f"no {what} folder {model!r}; give a folder with config.json, {otherwise}")
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    if not isinstance(found, str):
        raise MsdmError(
            f"{what} {model!r} is neither a folder nor in the local Hugging Face cache; run "
            f"`hf download {model}`, {otherwise}"
        )
    return Path(found).parent


def conversion(file: Path, out: Path) -> str:
    """The command that makes safetensors of a file of PyTorch's, for messages."""
    return f"msdm-kit convert weights {shlex.quote(str(file))} {shlex.quote(str(out))}"
