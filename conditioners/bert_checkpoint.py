"""Reading a pretrained BERT from disk, never from the network."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..core.errors import MsdmError
from ..core.model_folder import conversion
from ..core.reading import parse_json, read_text
from .wordpiece import SPECIAL, make_tokenizer

MOST_BYTES = 2**26
"""Of a text file of a model; in memory a tokenizer takes several times that."""
_SIZES = {
    "vocab_size": 2**22,
    "hidden_size": 2**14,
    "num_hidden_layers": 2**8,
    "num_attention_heads": 2**10,
    "intermediate_size": 2**16,
    "max_position_embeddings": 2**20,
    "type_vocab_size": 2**16,
}
"""Settings that are whole numbers from 1, and the most that is legal."""
_MOST_WEIGHTS = 2**30
_NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
OTHERWISE = "or set `model: embedded`, which needs no download"


def _is_activation(value: object) -> bool:
    from transformers.activations import ACT2FN

    return isinstance(value, str) and value in ACT2FN


_OTHERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "hidden_act": (_is_activation, "an activation of transformers, such as gelu"),
    "layer_norm_eps": (lambda value: type(value) in (int, float) and 0 < value < 1, "between 0 and 1"),
    "pad_token_id": (lambda value: value is None or (type(value) is int and value >= 0), "a token"),
}


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
        raise MsdmError(f"text model {str(folder)!r} {why}; give a model of type 'bert', {OTHERWISE}")
    facts: dict[str, Any] = {"config": checked_config(config, folder)}
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


def checked_config(config: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """The settings of a BERT that make its network, none of which asks for more memory than any BERT needs.

    Parameters
    ----------
    config : mapping
        Of a ``config.json`` or of weights; not trusted.
    folder : Path or None
        Where it lies, for messages; None is in weights.

    Raises
    ------
    MsdmError
        A setting is of a wrong type or out of its range.
    """
    where = "the text model of the weights" if folder is None else f"text model {str(folder)!r}"
    kept = {name: config[name] for name in (*_SIZES, *_OTHERS) if name in config}
    for name, most in _SIZES.items():
        size = kept.get(name, 1)
        if type(size) is not int or not 1 <= size <= most:
            raise MsdmError(f"{where}: {name} is {size!r:.40}; legal is 1 to {most}")
    for name, (legal, said) in _OTHERS.items():
        if name in kept and not legal(kept[name]):
            raise MsdmError(f"{where}: {name} is {kept[name]!r:.40}; legal is {said}")
    width, layers = kept.get("hidden_size", 768), kept.get("num_hidden_layers", 12)
    inner = kept.get("intermediate_size", 3072)
    tables = sum(kept.get(name, 512) for name in ("vocab_size", "max_position_embeddings", "type_vocab_size"))
    weights = width * tables + layers * width * (4 * width + 2 * inner)
    if weights > _MOST_WEIGHTS:
        raise MsdmError(f"{where} has {weights} weights, and legal are {_MOST_WEIGHTS}; give a BERT's")
    if (kept.get("pad_token_id") or 0) >= kept.get("vocab_size", 30522):
        raise MsdmError(
            f"{where}: pad_token_id {kept['pad_token_id']} is none of its vocabulary; give a BERT's"
        )
    if width % kept.get("num_attention_heads", 12):
        raise MsdmError(f"{where}: hidden_size {width} is no multiple of num_attention_heads; give a BERT's")
    return kept


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
        With ``model.safetensors``.

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
            f"{misfits[0]!r}; give the weights that belong to its config.json, {OTHERWISE}"
        )
    encoder.load_state_dict({name: state[name] for name in own})


def _read_state(folder: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if safe.is_file():
        try:
            state: Mapping[str, Tensor] = load_file(safe)
        except (SafetensorError, OSError, TypeError) as error:
            cause = str(error).partition("\n")[0]
            raise MsdmError(f"cannot read weights in {str(folder)!r}: {cause}; get the file anew") from error
        return state
    if pickled.is_file():
        raise MsdmError(
            f"{str(pickled)!r} is a pickle, which is not loaded; run: {conversion(pickled, safe)}"
        )
    raise MsdmError(f"no weights in {str(folder)!r}; put model.safetensors there, {OTHERWISE}")


def _current_name(name: str) -> str:
    """A tensor's name today: checkpoints of whole heads carry a prefix, TensorFlow's gamma and beta."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = parse_json(_read_text(folder, name))
    except ValueError as error:
        raise MsdmError(f"{str(folder / name)!r} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise MsdmError(f"{str(folder / name)!r} is not a JSON object; give a BERT's folder")
    return content


def _read_text(folder: Path, name: str) -> str:
    try:
        return read_text(folder / name, MOST_BYTES)
    except FileNotFoundError:
        raise MsdmError(
            f"text model {str(folder)!r} has no {name}; give a BERT's folder, {OTHERWISE}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise MsdmError(f"cannot read {str(folder / name)!r}: {reason}; give a BERT's folder") from None
