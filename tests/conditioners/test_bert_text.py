import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from msdm_kit.conditioners.bert_text import BertText
from msdm_kit.conditioners.wordpiece import SPECIAL, build_vocab, make_tokenizer
from msdm_kit.core.conditioning import Signal, Spec
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.sample import Sample, recombine

ROWS = [
    {"id": "a", "assay": "H&E", "indication": "lung adenocarcinoma"},
    {"id": "b", "assay": "IHC HER2", "indication": "breast"},
]
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.1,
}


def make(facts: dict[str, Any] | None = None, **settings: Any) -> BertText:
    config = BertText.Config(**settings)
    facts = BertText.fit(config, ROWS) if facts is None else facts
    return BertText(config, json.loads(json.dumps(facts)))


def sample(assay: str, indication: str) -> Sample:
    metadata = {"assay": assay, "indication": indication}
    return Sample(id="s", masks={"cell": np.zeros((2, 2), np.int32)}, metadata=metadata)


def signal_of(conditioner: BertText, *texts: tuple[str, str]) -> Signal:
    return conditioner.encode(conditioner.collate([conditioner.observe(sample(*t)) for t in texts]))


@pytest.fixture(scope="module")
def embedded() -> BertText:
    return make().eval()


class TestVocabulary:
    def test_order_and_repetitions_do_not_matter(self) -> None:
        assert build_vocab(["b a", "c"]) == build_vocab(["c", "b a", "c"])

    def test_special_tokens_words_then_characters(self) -> None:
        vocab = build_vocab(["Lung (H&E)", "Ödem"])
        assert vocab[:5] == list(SPECIAL)
        assert vocab[5:12] == ["&", "(", ")", "e", "h", "lung", "odem"]
        assert {"##z", "z", "~", "##~"} <= set(vocab)
        assert len(set(vocab)) == len(vocab)

    @settings(max_examples=50, deadline=None)
    @given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40))
    def test_any_ascii_text_encodes_without_unknowns(self, text: str) -> None:
        tokenizer = make_tokenizer({"vocab": build_vocab(["lung"]), "lowercase": True}, 64)
        ids = tokenizer.encode(text).ids
        assert ids[0] == SPECIAL.index("[CLS]")
        assert ids[-1] == SPECIAL.index("[SEP]")
        assert SPECIAL.index("[UNK]") not in ids

    def test_known_words_are_one_token_each(self, embedded: BertText) -> None:
        ids = embedded.observe(sample("IHC HER2", "Breast"))["ids"]
        vocab = embedded.facts["vocab"]
        assert [vocab[i] for i in ids] == ["[CLS]", "ihc", "her2", "breast", "[SEP]"]

    def test_characters_of_the_training_split_beyond_ascii(self) -> None:
        tokenizer = make_tokenizer({"vocab": build_vocab(["рак"]), "lowercase": True}, 64)
        assert SPECIAL.index("[UNK]") not in tokenizer.encode("кар").ids


class TestTemplate:
    @pytest.mark.parametrize(
        "template",
        [
            "{assay.upper}",
            "{assay[0]}",
            "{}",
            "{0}",
            "{assay!r}",
            "{assay:>10}",
            "{assay",
            "assay",
            "{a:{b}}",
            "{ }",
        ],
    )
    def test_only_plain_columns(self, template: str) -> None:
        with pytest.raises(ValidationError, match="template"):
            BertText.Config(template=template)

    def test_literal_text_and_braces(self) -> None:
        conditioner = make(template="{{x}} {indication}", max_tokens=8)
        ids = conditioner.observe(sample("H&E", "breast"))["ids"]
        vocab = conditioner.facts["vocab"]
        assert [vocab[i] for i in ids] == ["[CLS]", "{", "x", "}", "breast", "[SEP]"]

    def test_a_value_with_braces_is_text(self) -> None:
        assert len(make().observe(sample("{id}", "{"))["ids"]) == 2 + len(["{", "id"[0], "##d", "}", "{"])

    def test_missing_column(self) -> None:
        with pytest.raises(
            MsdmError, match=r"no column 'asay'; did you mean 'assay'\? legal: assay, id, indication"
        ):
            BertText.fit(BertText.Config(template="{asay}"), ROWS)
        with pytest.raises(MsdmError, match="no rows"):
            BertText.fit(BertText.Config(), [])

    def test_sample_without_the_column(self, embedded: BertText) -> None:
        bare = Sample(id="bare", masks={}, metadata={"assay": "H&E"})
        with pytest.raises(MsdmError, match="'bare' has no metadata 'indication'"):
            embedded.observe(bare)


class TestEmbedded:
    def test_shape_of_bert_tiny(self, embedded: BertText) -> None:
        signal = signal_of(embedded, ("H&E", "lung adenocarcinoma"), ("IHC HER2", "breast"))
        assert embedded.spec == Spec("tokens", 128)
        assert signal.data.shape == (2, 7, 128)
        assert signal.mask is not None
        assert signal.mask.sum(1).tolist() == [7, 5]
        assert embedded.reads == {"metadata"}
        layers = sum(p.numel() for p in embedded.encoder.encoder.parameters())  # type: ignore[union-attr, operator]
        assert layers == 2 * (4 * (128 * 128 + 128) + 2 * 128 * 512 + 512 + 128 + 4 * 128)

    def test_same_weights_every_time_and_the_global_generator_is_left_alone(self) -> None:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = make()
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        second = make()
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, second.state_dict()[name]), name

    def test_facts_are_json_and_enough(self, embedded: BertText) -> None:
        again = make(json.loads(json.dumps(embedded.facts)))
        again.load_state_dict(embedded.state_dict())
        text = ("H&E", "breast")
        assert torch.equal(signal_of(again.eval(), text).data, signal_of(embedded, text).data)

    def test_no_dropout(self) -> None:
        conditioner = make().train()
        text = ("H&E", "lung")
        assert torch.equal(signal_of(conditioner, text).data, signal_of(conditioner, text).data)

    @settings(max_examples=15, deadline=None)
    @given(
        st.lists(st.sampled_from(["lung", "breast", "H&E", "unseen words here", ""]), min_size=2, max_size=4)
    )
    def test_alone_or_padded_in_a_batch(self, embedded: BertText, words: list[str]) -> None:
        texts = [(w, "lung") for w in words]
        together = signal_of(embedded, *texts)
        assert together.mask is not None
        for i, text in enumerate(texts):
            alone = signal_of(embedded, text)
            torch.testing.assert_close(together.data[i, together.mask[i]], alone.data[0], atol=1e-6, rtol=0)

    def test_long_texts_are_cut(self) -> None:
        conditioner = make(max_tokens=6)
        ids = conditioner.observe(sample("a b c d e", "f g h"))["ids"]
        assert len(ids) == 6
        assert conditioner.facts["vocab"][ids[-1]] == "[SEP]"

    def test_more_tokens_than_positions(self) -> None:
        with pytest.raises(MsdmError, match=r"max_tokens is 513.*at most 512"):
            make(max_tokens=513)

    def test_metadata_of_another_sample_or_given_by_hand(self, embedded: BertText) -> None:
        a, b = sample("H&E", "lung"), sample("IHC", "breast")
        expected = embedded.observe(b)["ids"]
        assert torch.equal(embedded.observe(recombine(a, metadata=b))["ids"], expected)
        given_by_hand = recombine(a, metadata={"assay": "IHC", "indication": "breast"})
        assert torch.equal(embedded.observe(given_by_hand)["ids"], expected)

    def test_pickled_to_a_worker(self, embedded: BertText) -> None:
        again = pickle.loads(pickle.dumps(embedded))
        s = sample("IHC", "breast")
        assert torch.equal(again.observe(s)["ids"], embedded.observe(s)["ids"])
        assert torch.equal(signal_of(again, ("IHC", "x")).data, signal_of(embedded, ("IHC", "x")).data)


class TestNull:
    def test_one_token_counts_and_the_masks_tell_it_apart(self, embedded: BertText) -> None:
        signal = signal_of(embedded, ("H&E", "lung"), ("", ""))
        null = embedded.null(signal)
        assert signal.mask is not None
        assert null.mask is not None
        assert null.data.shape == signal.data.shape
        assert null.mask.sum(1).tolist() == [1, 1]
        assert null.mask[:, 0].all()
        assert not null.data[:, 1:].any()
        assert torch.equal(null.data[0, 0], embedded.null_token)
        assert (signal.mask.sum(1) >= 2).all()

    def test_rows_can_be_replaced_by_it(self, embedded: BertText) -> None:
        signal = signal_of(embedded, ("H&E", "lung"), ("IHC", "breast"))
        mixed = signal.where(torch.tensor([True, False]), embedded.null(signal))
        assert mixed.mask is not None
        assert mixed.mask[0].sum() == 1
        assert torch.equal(mixed.data[1], signal.data[1])

    def test_it_learns(self) -> None:
        conditioner = make(trainable=False)
        conditioner.null(signal_of(conditioner, ("H&E", "lung"))).data.sum().backward()
        assert conditioner.null_token.grad is not None
        assert conditioner.null_token.grad.all()


class TestFrozen:
    def test_no_gradient_and_always_in_evaluation_mode(self) -> None:
        conditioner = make(trainable=False).train()
        assert conditioner.training
        assert not any(m.training for m in conditioner.encoder.modules())
        assert not signal_of(conditioner, ("H&E", "lung")).data.requires_grad
        assert not any(p.requires_grad for p in conditioner.encoder.parameters())

    def test_trainable_has_gradients_unless_the_caller_wants_none(self) -> None:
        conditioner = make()
        assert signal_of(conditioner, ("H&E", "lung")).data.requires_grad
        with torch.no_grad():
            assert not signal_of(conditioner, ("H&E", "lung")).data.requires_grad
