"""Reading a pretrained BERT from disk, never from the network."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import MsdmError
from .wordpiece import SPECIAL, make_tokenizer

CONFIG_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
)
_NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_EMBEDDED = "or set `model: embedded`, which needs no download"


def find_model(model: str) -> Path:
    """The folder of a pretrained model.

    Parameters
    ----------
    model : str
        A folder, or the id of a model in the local Hugging Face cache.

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
        raise MsdmError(f"no text model folder {model!r}; give a folder with config.json, {_EMBEDDED}")
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    if not isinstance(found, str):
        raise MsdmError(
            f"text model {model!r} is neither a folder nor in the local Hugging Face cache; run "
            f"`hf download {model}`, {_EMBEDDED}"
        )
    return Path(found).parent


def read_facts(folder: Path) -> dict[str, Any]:
    """The configuration and the tokenizer of a pretrained BERT, as JSON.

    Parameters
    ----------
    folder : Path
        With ``config.json`` and one of ``tokenizer.json`` and ``vocab.txt``.

    Returns
    -------
    dict
        ``config`` and either ``tokenizer`` or ``vocab`` and ``lowercase``. No dropout is taken over: an
        encoded text does not vary, and dropping the condition is the recipe's.

    Raises
    ------
    MsdmError
        A file is missing or is not a BERT's.
    """
    config = _read_json(folder, "config.json")
    kind = config.get("model_type", "bert")  # the first BERT checkpoints do not say
    missing = [name for name in _NEEDED if name not in config]
    if kind != "bert" or missing:
        why = f"is of type {kind!r}" if kind != "bert" else f"lacks {', '.join(missing)}"
        raise MsdmError(f"text model {str(folder)!r} {why}; give a model of type 'bert', {_EMBEDDED}")
    facts: dict[str, Any] = {"config": {name: config[name] for name in CONFIG_FIELDS if name in config}}
    if (folder / "tokenizer.json").is_file():
        facts["tokenizer"] = _read_json(folder, "tokenizer.json")
    elif (folder / "vocab.txt").is_file():
        settings = folder / "tokenizer_config.json"
        lowercase = (
            _read_json(folder, settings.name).get("do_lower_case", True) if settings.is_file() else True
        )
        lines = _read_text(folder, "vocab.txt").split("\n")
        facts["vocab"] = [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
        facts["lowercase"] = bool(lowercase)
        absent = [token for token in SPECIAL if token not in facts["vocab"] and token != "[MASK]"]
        if absent:
            raise MsdmError(f"{folder / 'vocab.txt'} lacks {', '.join(absent)}; give a BERT vocabulary")
    else:
        raise MsdmError(f"text model {str(folder)!r} has neither tokenizer.json nor vocab.txt; add one")
    _check_tokenizer(facts, folder)
    return facts


def _check_tokenizer(facts: Mapping[str, Any], folder: Path) -> None:
    try:
        tokenizer = make_tokenizer(facts, max_tokens=3)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise MsdmError(f"cannot read the tokenizer in {str(folder)!r}: {error}") from error
    size, legal = tokenizer.get_vocab_size(), facts["config"]["vocab_size"]
    if size > legal:
        raise MsdmError(
            f"the tokenizer in {str(folder)!r} has {size} tokens and its config.json a vocab_size of "
            f"{legal}; give files that belong together"
        )
    if len(tokenizer.encode("").ids) != 2:
        raise MsdmError(f"the tokenizer in {str(folder)!r} does not add [CLS] and [SEP]; give a BERT's")


def load_weights(encoder: nn.Module, folder: Path) -> None:
    """Load a pretrained BERT's weights into a BERT without a pooler.

    Parameters
    ----------
    encoder : nn.Module
        A ``transformers.BertModel``.
    folder : Path
        With ``model.safetensors`` or ``pytorch_model.bin``; the latter is read without running any code.

    Raises
    ------
    MsdmError
        There are no weights, or they do not fit.
    """
    state = {_current_name(name): tensor for name, tensor in _read_state(folder).items()}
    own = encoder.state_dict()
    misfits = [name for name, t in own.items() if name not in state or state[name].shape != t.shape]
    if misfits:
        raise MsdmError(
            f"weights in {str(folder)!r} lack or misshape {len(misfits)} tensors of the encoder, such as "
            f"{misfits[0]!r}; give the weights that belong to its config.json, {_EMBEDDED}"
        )
    encoder.load_state_dict({name: state[name] for name in own})


def _read_state(folder: Path) -> Mapping[str, Tensor]:
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    state: Mapping[str, Tensor]
    try:
        if safe.is_file():
            from safetensors.torch import load_file

            state = load_file(safe)
            return state
        if pickled.is_file():
            state = torch.load(pickled, map_location="cpu", weights_only=True)
            return state
    except Exception as error:  # each format has exceptions of its own, none of them common
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise MsdmError(f"cannot read weights in {str(folder)!r}: {cause}") from error
    raise MsdmError(
        f"no weights in {str(folder)!r}; put model.safetensors or pytorch_model.bin there, {_EMBEDDED}"
    )


def _current_name(name: str) -> str:
    """A tensor's name today: checkpoints of whole heads carry a prefix, TensorFlow's gamma and beta."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(folder, name))
    except ValueError as error:
        raise MsdmError(f"{str(folder / name)!r} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise MsdmError(f"{str(folder / name)!r} is not a JSON object; give a BERT's folder")
    return content


def _read_text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MsdmError(
            f"text model {str(folder)!r} has no {name}; give a BERT's folder, {_EMBEDDED}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise MsdmError(f"cannot read {str(folder / name)!r}: {reason}; give a BERT's folder") from None
