"""Readers of folders of models, and of what jobs leave behind."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from . import mutate
from .formats import safetensors
from .target import CHEAP, SLOW, Target
from .words import CSV

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "colon", "##s")
CONFIG = {
    "model_type": "bert", "vocab_size": len(WORDS), "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 8, "hidden_act": "gelu", "max_position_embeddings": 16,
    "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
}  # fmt: skip


def _bert(file: str):  # type: ignore[no-untyped-def]
    """A reader of one file of a folder whose other files are sound."""

    def read(folder: Path, data: bytes) -> None:
        from msdm_kit.conditioners.bert_text import BertText, BertTextConfig

        files = {
            "config.json": json.dumps(CONFIG).encode(),
            "vocab.txt": "\n".join(WORDS).encode(),
            "model.safetensors": _bert_weights(),
        }
        for name, content in (files | {file: data}).items():
            (folder / name).write_bytes(content)
        config = BertTextConfig(model=str(folder), template="{organ}", max_tokens=8)
        BertText(config, BertText.fit(config, [{"id": "a", "organ": "colon"}]))

    return read


@cache
def _bert_weights() -> bytes:
    from safetensors.torch import save
    from transformers import BertConfig, BertModel

    return save(dict(BertModel(BertConfig(**CONFIG), add_pooling_layer=False).state_dict()))


def _tokenizer() -> list[bytes]:
    from msdm_kit.conditioners.wordpiece import make_tokenizer

    return [make_tokenizer({"vocab": list(WORDS), "lowercase": True}, 8).to_str().encode()]


@cache
def _segmenter_files() -> tuple[bytes, bytes]:
    import hashlib
    import tempfile

    import torch

    from msdm_kit.core.checkpoint import save_tensors
    from msdm_kit.plugins.segmenters.scratch_small import ScratchSmall, ScratchSmallConfig

    settings: dict[str, Any] = {"channels": [4, 8, 8]}
    segmenter = ScratchSmall(ScratchSmallConfig(**settings), "nucleus", torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        segmenter.save(path) if hasattr(segmenter, "save") else save_tensors(
            path, segmenter.network.state_dict(), {}
        )
        weights = path.read_bytes()
    facts = {
        "format": 1, "segmenter": {"type": "scratch-small", **settings}, "kind": "nucleus", "seed": 0,
        "train_fields": 1, "train_instances": 1, "train_sha256": "", "validation_fields": 0,
        "train_loss": [0.5], "validation_loss": {"1": 0.5},
        "weights_sha256": hashlib.sha256(weights).hexdigest(), "versions": {"torch": "2"},
    }  # fmt: skip
    return json.dumps(facts).encode(), weights


def _segmenter(which: int):  # type: ignore[no-untyped-def]
    def read(folder: Path, data: bytes) -> None:
        from msdm_kit.plugins.segmenters.folder import load_segmenter

        files = list(_segmenter_files())
        files[which] = data
        for name, content in zip(("segmenter.json", "weights.safetensors"), files, strict=True):
            (folder / name).write_bytes(content)
        load_segmenter(folder, device="cpu")

    return read


AUTOENCODER = {
    "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [4, 4], "layers_per_block": 1, "act_fn": "silu", "latent_channels": 2,
    "norm_num_groups": 2, "scaling_factor": 0.5, "shift_factor": 0.1, "latents_mean": [0.0, 0.1],
    "latents_std": [1.0, 2.0],
}  # fmt: skip


def _autoencoder(folder: Path, data: bytes) -> None:
    from msdm_kit.plugins.autoencoders.kl import KL, WEIGHTS, KLConfig

    (folder / "config.json").write_bytes(data)
    (folder / WEIGHTS).write_bytes(_autoencoder_weights())
    KL(KLConfig(model=str(folder))).initialise()


@cache
def _autoencoder_weights() -> bytes:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from safetensors.torch import save

    words = {n: value for n, value in AUTOENCODER.items() if not n.startswith(("_", "latents_"))}
    return save(dict(AutoencoderKL(**words).state_dict()))


def _cache(folder: Path, data: bytes) -> None:
    from msdm_kit.plugins.embedders.cache import EmbeddingCache

    home = EmbeddingCache(folder, "x").folder
    assert home is not None
    home.mkdir(parents=True)
    (home / "a.safetensors").write_bytes(data)
    kept = EmbeddingCache(folder, "x")
    for key in kept.keys:
        kept.get(key)


def _cache_seeds() -> list[bytes]:
    import numpy as np
    from safetensors.numpy import save

    return [save({"a" * 8: np.zeros(4, np.float32), "b" * 8: np.zeros((2, 2), np.float64)})]


def _scores(folder: Path, data: bytes) -> None:
    from msdm_kit.plugins.experiment.results import read_scores

    (folder / "scores.csv").write_bytes(data)
    read_scores(folder / "scores.csv")


SCORES = (
    b"test,id,arm,seed,kind,metric,annotator,value\nt,a,real,0,nucleus,pq,1,0.5\nt,b,real,0,nucleus,pq,1,\n"
)

TARGETS = (
    Target(
        "BERT config.json",
        lambda: [json.dumps(CONFIG).encode()],
        _bert("config.json"),
        mutate.json_bytes,
        SLOW,
    ),
    Target(
        "BERT vocab.txt",
        lambda: ["\n".join(WORDS).encode()],
        _bert("vocab.txt"),
        mutate.text((*WORDS, *CSV)),
        SLOW,
    ),
    Target("BERT tokenizer.json", _tokenizer, _bert("tokenizer.json"), mutate.json_bytes, SLOW),
    Target("BERT safetensors", lambda: [_bert_weights()], _bert("model.safetensors"), safetensors, SLOW),
    Target(
        "AutoencoderKL config.json",
        lambda: [json.dumps(AUTOENCODER).encode()],
        _autoencoder,
        mutate.json_bytes,
        SLOW,
    ),
    Target("segmenter.json", lambda: [_segmenter_files()[0]], _segmenter(0), mutate.json_bytes, SLOW),
    Target("segmenter's weights", lambda: [_segmenter_files()[1]], _segmenter(1), safetensors, SLOW),
    Target("kept embeddings", _cache_seeds, _cache, safetensors, CHEAP),
    Target("scores of an experiment", lambda: [SCORES], _scores, mutate.text(CSV), CHEAP),
)
