import json
import pickle
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from msdm_kit.conditioners.bert_text import BertText
from msdm_kit.conditioners.wordpiece import build_vocab, make_tokenizer
from msdm_kit.core.conditioning import Spec
from msdm_kit.core.errors import MsdmError

from .test_bert_text import SMALL, make, sample, signal_of


@pytest.fixture(scope="module")
def embedded() -> BertText:
    return make().eval()


@pytest.fixture(scope="module")
def pretrained_source(
    embedded: BertText,
) -> tuple[dict[str, Any], dict[str, torch.Tensor], list[str]]:
    """Config, weights under the names of old checkpoints of a whole head, and vocabulary of a tiny BERT."""
    from transformers import BertConfig, BertModel

    vocab = build_vocab(["tumour of the lung"])
    config = {**SMALL, "vocab_size": len(vocab)}
    model = BertModel(BertConfig(**config), add_pooling_layer=True)
    old = {
        "bert."
        + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): v.clone()
        for k, v in model.state_dict().items()
    }
    return config, {**old, "cls.predictions.bias": torch.zeros(3)}, vocab


@pytest.fixture
def folder(tmp_path: Path, pretrained_source: Any) -> Path:
    config, state, vocab = pretrained_source
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n")
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path


class TestPretrained:
    def test_weights_are_the_folders(self, folder: Path, pretrained_source: Any) -> None:
        conditioner = make(model=str(folder)).eval()
        conditioner.initialise()
        _, state, vocab = pretrained_source
        for name, tensor in conditioner.encoder.state_dict().items():
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            assert torch.equal(tensor, state["bert." + old]), name
        assert conditioner.spec == Spec("tokens", 16)
        ids = conditioner.observe(sample("Tumour", "lung"))["ids"]
        assert [vocab[i] for i in ids] == ["[CLS]", "tumour", "lung", "[SEP]"]

    def test_same_hidden_states_as_the_library(self, folder: Path, pretrained_source: Any) -> None:
        from transformers import BertConfig, BertModel

        config, _, _ = pretrained_source
        conditioner = make(model=str(folder)).eval()
        conditioner.initialise()
        reference = BertModel(BertConfig(**config), add_pooling_layer=False).eval()
        reference.load_state_dict(conditioner.encoder.state_dict())
        batch = conditioner.collate(
            [conditioner.observe(sample("tumour", t)) for t in ("lung", "of the lung")]
        )
        expected = reference(input_ids=batch["ids"], attention_mask=batch["mask"].long()).last_hidden_state
        torch.testing.assert_close(conditioner.encode(batch).data, expected)

    def test_a_trained_run_needs_no_folder(self, folder: Path) -> None:
        conditioner = make(model=str(folder)).eval()
        conditioner.initialise()
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        again = make(conditioner.facts, model=str(folder)).eval()
        again.load_state_dict(conditioner.state_dict())
        text = ("tumour", "lung")
        assert torch.equal(signal_of(again, text).data, signal_of(conditioner, text).data)
        with pytest.raises(MsdmError, match="no text model folder"):
            again.initialise()

    def test_facts_name_no_place_on_this_machine(self, folder: Path) -> None:
        assert str(folder) not in json.dumps(make(model=str(folder)).facts)

    def test_a_vocabulary_that_is_no_text(self, folder: Path) -> None:
        (folder / "vocab.txt").write_bytes(b"\xff\xfe")
        with pytest.raises(MsdmError, match="not UTF-8 text"):
            make(model=str(folder))

    def test_weights_of_no_bytes(self, folder: Path) -> None:
        conditioner = make(model=str(folder))
        (folder / "model.safetensors").write_bytes(b"")
        with pytest.raises(MsdmError, match="cannot read weights"):
            conditioner.initialise()

    def test_tokenizer_json(self, folder: Path, pretrained_source: Any) -> None:
        _, _, vocab = pretrained_source
        tokenizer = make_tokenizer({"vocab": vocab, "lowercase": True}, 40)
        tokenizer.enable_padding(length=30)
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "vocab.txt").unlink()
        conditioner = make(model=str(folder), max_tokens=4)
        assert len(conditioner.observe(sample("tumour", "lung"))["ids"]) == 4
        assert len(conditioner.observe(sample("tumour", "of the lung"))["ids"]) == 4
        assert len(conditioner.observe(sample("", "lung"))["ids"]) == 3

    def test_cased_vocabulary(self, folder: Path) -> None:
        (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
        assert make(model=str(folder)).facts["lowercase"] is False

    def test_weights_of_another_config(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 32}))
        with pytest.raises(MsdmError, match="lack or misshape 3 tensors"):
            make(model=str(folder)).initialise()

    def test_broken_weights(self, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"nothing")
        with pytest.raises(MsdmError, match="cannot read weights") as error:
            make(model=str(folder)).initialise()
        assert "\n" not in str(error.value)

    def test_a_pickle_is_not_read_and_the_command_that_is_named_helps(self, folder: Path) -> None:
        from msdm_kit.cli.main import run

        conditioner = make(model=str(folder))
        safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
        torch.save(load_file(safe), pickled)
        safe.unlink()
        with pytest.raises(MsdmError, match="is a pickle, which is not loaded; run: msdm-kit") as error:
            conditioner.initialise()
        assert run(shlex.split(str(error.value).partition("run: msdm-kit ")[2])) == 0
        conditioner.initialise()
        pickled.unlink()
        safe.unlink()
        with pytest.raises(MsdmError, match=r"no weights in .*; put model\.safetensors there"):
            conditioner.initialise()

    def test_not_a_bert(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "t5"}')
        with pytest.raises(MsdmError, match="of type 't5'"):
            make(model=str(tmp_path))
        (tmp_path / "config.json").write_text('{"hidden_size": 8}')
        with pytest.raises(MsdmError, match="lacks vocab_size"):
            make(model=str(tmp_path))
        (tmp_path / "config.json").unlink()
        with pytest.raises(MsdmError, match=r"has no config\.json"):
            make(model=str(tmp_path))

    def test_vocabulary_too_large_for_the_config(self, folder: Path) -> None:
        with (folder / "vocab.txt").open("a") as file:
            file.write("onemore\n")
        with pytest.raises(MsdmError, match="vocab_size"):
            make(model=str(folder))

    def test_unknown_model_says_what_to_run(self) -> None:
        with pytest.raises(MsdmError, match=r"`hf download nobody/no-such-bert`, or set `model: embedded`"):
            make(model="nobody/no-such-bert")
        with pytest.raises(MsdmError, match="no text model folder"):
            make(model="./no/such/folder")


class TestKept:
    """What a frozen encoder keeps of the texts that it has read."""

    TEXTS = (("H&E", "lung adenocarcinoma"), ("IHC", "breast"), ("H&E", "lung adenocarcinoma"))

    @pytest.fixture
    def frozen(self) -> BertText:
        return make(trainable=False)

    @pytest.fixture
    def reads(self, frozen: BertText, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """The lengths of the texts that the encoder itself was given, one by one."""
        lengths: list[int] = []
        forward = frozen.encoder.forward

        def counted(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            assert len(input_ids) == 1
            lengths.append(input_ids.shape[1])
            return forward(input_ids=input_ids, attention_mask=attention_mask)

        monkeypatch.setattr(frozen.encoder, "forward", counted)
        return lengths

    def test_each_text_is_read_once(self, frozen: BertText, reads: list[int]) -> None:
        first = signal_of(frozen, *self.TEXTS)
        assert reads == [7, 4]
        assert torch.equal(signal_of(frozen, *self.TEXTS).data, first.data)
        assert len(reads) == 2

    def test_same_bits_as_without(self, frozen: BertText) -> None:
        kept = signal_of(frozen, *self.TEXTS)
        for _ in range(2):
            for i, text in enumerate(self.TEXTS):
                alone = signal_of(make(trainable=False), text).data[0]
                assert torch.equal(kept.data[i, : len(alone)], alone)
                assert not kept.data[i, len(alone) :].any()
            kept = signal_of(frozen, *self.TEXTS)

    def test_as_near_as_rounding_to_the_encoder_on_the_padded_batch(self, frozen: BertText) -> None:
        kept, whole = signal_of(frozen, *self.TEXTS), signal_of(make(frozen.facts), *self.TEXTS)
        assert kept.mask is not None
        torch.testing.assert_close(kept.data[kept.mask], whole.data[kept.mask], atol=1e-5, rtol=1e-5)

    def test_precision_does_not_matter(self, frozen: BertText) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = signal_of(frozen, *self.TEXTS).data
        assert low.dtype == torch.float32
        assert torch.equal(low, signal_of(make(trainable=False), *self.TEXTS).data)

    def test_longer_padding_than_any_text(self, frozen: BertText) -> None:
        batch = frozen.collate([frozen.observe(sample(*t)) for t in self.TEXTS])
        row = {key: value[1:2] for key, value in batch.items()}
        assert frozen.encode(row).data.shape == (1, 7, 128)

    def test_new_weights_are_read_with(self, frozen: BertText, reads: list[int]) -> None:
        text = self.TEXTS[0]
        before = signal_of(frozen, text).data
        changed = {k: v + 0.1 * torch.randn_like(v) for k, v in frozen.state_dict().items()}
        frozen.load_state_dict(changed)
        after = signal_of(frozen, text).data
        assert len(reads) == 2
        assert not torch.allclose(before, after)
        with torch.no_grad():
            next(frozen.encoder.parameters()).mul_(2)
        signal_of(frozen, text)
        assert len(reads) == 3
        assert signal_of(frozen.double(), text).data.dtype == torch.float64

    def test_a_trainable_encoder_keeps_nothing(self) -> None:
        conditioner = make()
        signal_of(conditioner, *self.TEXTS).data.sum().backward()
        assert not conditioner._kept

    def test_the_oldest_is_forgotten(
        self, frozen: BertText, reads: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("msdm_kit.conditioners.bert_text.KEPT_TEXTS", 2)
        a, b, c = ("a", "x"), ("b", "x"), ("c", "x")
        for text in (a, b, a, c):
            signal_of(frozen, text)
        assert len(reads) == 3
        signal_of(frozen, a)
        assert len(reads) == 3
        signal_of(frozen, b)
        assert len(reads) == 4

    def test_what_was_read_in_inference_mode_trains(self, frozen: BertText) -> None:
        with torch.inference_mode():
            signal_of(frozen, self.TEXTS[0])
        weight = torch.ones(128, requires_grad=True)
        (signal_of(frozen, self.TEXTS[0]).data * weight).sum().backward()
        assert weight.grad is not None

    def test_copies_start_empty(self, frozen: BertText) -> None:
        signal_of(frozen, *self.TEXTS)
        again = pickle.loads(pickle.dumps(frozen))
        assert frozen._kept
        assert not again._kept
