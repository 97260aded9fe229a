"""Metadata as text, encoded by BERT."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from ..core.conditioning import Conditioner, Observation, PluginConfig, Signal, Spec
from ..core.errors import MsdmError
from ..core.model_folder import find_model
from ..core.precision import full_precision
from ..core.sample import Sample
from .bert_checkpoint import OTHERWISE, checked_config, load_weights, read_facts
from .metadata import parse_template, read_column, require_columns
from .wordpiece import SPECIAL, build_vocab, make_tokenizer

EMBEDDED = "embedded"
KEPT_TEXTS = 1024
"""Encoded texts that a frozen encoder keeps; 100 MB where a text has 32 tokens of width 768."""
_SEED = 0  # of the embedded encoder's weights: two runs begin alike whatever ran before

_TINY = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "max_position_embeddings": 512,
}
"""BERT-tiny's shape (Turc et al. 2019, arXiv 1908.08962)."""


class BertTextConfig(PluginConfig):
    """Settings of `BertText`."""

    model: str = Field(
        EMBEDDED,
        min_length=1,
        description="`embedded`: BERT-tiny's shape with random weights and a vocabulary of the training "
        "split's words. Otherwise a folder with a pretrained BERT, or the id of one in the local Hugging "
        "Face cache, such as prajjwal1/bert-tiny.",
    )
    template: str = Field(
        "{assay} {indication}", description="The text, with columns of the manifest in braces."
    )
    trainable: bool = Field(True, description="Whether training changes the encoder.")
    max_tokens: int = Field(32, ge=3, description="Longer texts are cut; [CLS] and [SEP] count.")

    @field_validator("template")
    @classmethod
    def _plain(cls, template: str) -> str:
        parse_template(template)
        return template


class BertText(Conditioner):
    """The last hidden states of a BERT over a text made of metadata: tokens with a mask.

    The facts hold the vocabulary or tokenizer and the encoder's configuration, so that a trained model needs
    neither the training set nor the folder of the pretrained one. The pretrained weights themselves are read
    by `initialise` when a run begins; later they are the run's own. A frozen encoder reads each text once.

    MSDM (Winter et al. 2025, arXiv 2510.09121) encodes assay and indication with BERT-tiny.
    """

    Config = BertTextConfig
    reads = frozenset({"metadata"})

    @classmethod
    def fit(cls, config: BertTextConfig, rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        pieces = parse_template(config.template)
        require_columns(rows, [name for _, name in pieces if name is not None], reader="bert_text")
        facts: dict[str, Any]
        if config.model == EMBEDDED:
            vocab = build_vocab({_fill(pieces, row) for row in rows})
            facts = {
                "vocab": vocab,
                "lowercase": True,
                "config": {**_TINY, "vocab_size": len(vocab), "pad_token_id": SPECIAL.index("[PAD]")},
            }
        else:
            facts = read_facts(find_model(config.model, "text model", OTHERWISE))
        positions = facts["config"].get("max_position_embeddings", 512)
        if config.max_tokens > positions:
            raise MsdmError(
                f"bert_text: max_tokens is {config.max_tokens}, and model {config.model!r} has {positions} "
                f"positions; set max_tokens to at most {positions}"
            )
        return facts

    def __init__(self, config: BertTextConfig, facts: Mapping[str, Any]) -> None:
        super().__init__(config, facts)
        from transformers import BertConfig, BertModel  # takes seconds to import

        self._pieces = parse_template(config.template)
        self._tokenizer = make_tokenizer(facts, config.max_tokens)
        settings = BertConfig(
            **checked_config(facts["config"]), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        self._pad = int(settings.pad_token_id or 0)
        self.spec = Spec("tokens", settings.hidden_size)
        # Only the CPU's generator is seeded, and put back: torch.manual_seed would reseed the GPU's too.
        where = "meta" if torch.get_default_device().type == "meta" else "cpu"
        with torch.random.fork_rng(devices=[]), torch.device(where):
            torch.default_generator.manual_seed(_SEED)
            self.encoder: nn.Module = BertModel(settings, add_pooling_layer=False)
            self.null_token = nn.Parameter(torch.randn(settings.hidden_size))
        self.encoder.requires_grad_(config.trainable)
        self._kept: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self._kept_of: object = None
        self.train()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_kept_of": None}

    def initialise(self) -> None:
        """Load the weights of the pretrained model that the config names, if it names one.

        Raises
        ------
        MsdmError
            Its folder is gone, has no weights, or has others than its config describes.
        """
        if self.config.model != EMBEDDED:
            load_weights(self.encoder, find_model(self.config.model, "text model", OTHERWISE))

    def train(self, mode: bool = True) -> "BertText":
        """As of any module; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if not self.config.trainable:
            self.encoder.eval()
        return self

    def observe(self, sample: Sample) -> Observation:
        """``ids``: (L,) int64, [CLS] first and [SEP] last, and ``mask``: (L,) bool, all True.

        Raises
        ------
        MsdmError
            The sample lacks a column of the template.
        """
        columns = [name for _, name in self._pieces if name is not None]
        text = _fill(self._pieces, {name: read_column(sample, name) for name in columns})
        ids = torch.tensor(self._tokenizer.encode(text).ids, dtype=torch.int64)
        return {"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool)}

    def collate(self, observations: Sequence[Observation]) -> Observation:
        """Padded to the longest text of the batch."""

        def pad(key: str, value: int) -> Tensor:
            return nn.utils.rnn.pad_sequence([o[key] for o in observations], True, value)

        return {"ids": pad("ids", self._pad), "mask": pad("mask", 0)}

    def encode(self, batch: Observation) -> Signal:
        if any(p.requires_grad for p in self.encoder.parameters()):
            out = self.encoder(input_ids=batch["ids"], attention_mask=batch["mask"].long())
            return Signal(out.last_hidden_state, batch["mask"])
        return Signal(self._recall(batch["ids"], batch["mask"]), batch["mask"])

    def _recall(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states (B, L, D) of a frozen encoder, 0 where the mask is False.

        Every distinct text is encoded once, by itself and in fp32, whatever it comes in a batch with; the
        most recent `KEPT_TEXTS` are kept until the weights change or move.
        """
        weights = [(p.device, p.data_ptr(), p._version) for p in self.encoder.parameters()]
        if weights != self._kept_of:
            self._kept.clear()
            self._kept_of = weights
        rows = []
        # one read-back from a GPU
        for row in torch.where(mask, ids, -1).tolist():
            text = tuple(token for token in row if token >= 0)
            if text not in self._kept:
                self._kept[text] = self._encode_text(text, ids.device)
            self._kept.move_to_end(text)
            rows.append(self._kept[text])
        while len(self._kept) > KEPT_TEXTS:
            self._kept.popitem(last=False)
        out = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return F.pad(out, (0, 0, 0, ids.shape[1] - out.shape[1]))

    def _encode_text(self, text: tuple[int, ...], device: torch.device) -> Tensor:
        # what is kept may be met in training next: no tensor of inference mode, which autograd refuses
        with torch.inference_mode(False), torch.no_grad(), full_precision(device):
            ids = torch.tensor([text], device=device)
            hidden: Tensor = self.encoder(
                input_ids=ids, attention_mask=torch.ones_like(ids)
            ).last_hidden_state
        return hidden[0]

    def null(self, like: Signal) -> Signal:
        """One learned token; a text has two at least, so that the masks alone tell them apart."""
        first = torch.arange(like.data.shape[1], device=like.data.device) == 0
        data = first[:, None] * self.null_token.to(like.data.dtype)
        return Signal(data.expand_as(like.data), first.expand(like.data.shape[:2]))


def _fill(pieces: Sequence[tuple[str, str | None]], values: Mapping[str, str]) -> str:
    return "".join(literal + ("" if name is None else values[name]) for literal, name in pieces)
