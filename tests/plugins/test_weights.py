"""Weights files that anyone may have written: the recipe in one must not ask for more than the file holds."""

import json
import struct

import pytest
import torch

from msdm_kit.core.checkpoint import save_tensors
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.recipe import Recipe
from msdm_kit.plugins import weights
from msdm_kit.plugins.build import build_conditioners, build_denoiser
from msdm_kit.plugins.pipeline import Pipeline
from msdm_kit.plugins.run import run_facts

RECIPE = {
    "name": "tiny",
    "data": {"masks": ["nucleus"], "crop": 16},
    "conditioners": {
        "c": {"type": "class_label", "column": "organ", "dim": 8},
        "t": {"type": "bert_text", "template": "{organ}"},
    },
    "injectors": [
        {"type": "film", "from": ["c"], "at": ["embedding"]},
        {"type": "cross_attention", "from": ["t"], "at": ["bottleneck"]},
    ],
    "backbone": {
        "type": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "attention_strides": [],
        "head_channels": 8, "groups": 4,
    },
    "train": {"steps": 3, "batch": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Tensors and facts of a small network."""
    recipe = Recipe.model_validate(RECIPE)
    rows = [{"id": "a", "organ": "colon"}, {"id": "b", "organ": "skin"}]
    denoiser = build_denoiser(recipe, build_conditioners(recipe, rows=rows))
    return dict(denoiser.state_dict()), run_facts(recipe, denoiser, 1)


def changed(facts, path, value):
    facts = json.loads(json.dumps(facts))
    *parents, last = path.split(".")
    node = facts
    for key in parents:
        node = node[int(key) if isinstance(node, list) else key]
    node[last] = value
    return facts


def test_as_it_was_written_it_loads(tmp_path, made):
    save_tensors(tmp_path / "weights.safetensors", *made)
    assert Pipeline.load(tmp_path, device="cpu").step == 1


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("recipe.backbone.channels", 65536, "the recipe asks for"),
        ("recipe.backbone.channels", 10**12, "less than or equal to 65536"),
        ("recipe.backbone.blocks", 10**9, "less than or equal to 64"),
        ("recipe.backbone.multipliers", [1] * 10_000, "at most 16 items"),
        ("recipe.diffusion.timesteps", 10**15, "recipe is not one of this version"),
        ("recipe.conditioners.c.dim", 65536, "the recipe asks for"),
        ("conditioners.t.config.hidden_size", 16384, "has 2200158208 weights"),
        ("conditioners.t.config.hidden_size", 4096, "the recipe asks for"),
        ("conditioners.t.config.hidden_size", 10**12, "hidden_size is 1000000000000"),
        ("conditioners.t.config.num_hidden_layers", 256, "it lacks"),
        ("conditioners.t.config.vocab_size", "many", "vocab_size is 'many'"),
        ("conditioners.t.config.hidden_act", "system", "hidden_act is 'system'"),
        ("conditioners.t.config.pad_token_id", 10**6, "none of its vocabulary"),
        ("conditioners.t", {}, "make no BertText"),
        ("conditioners.t", [1], "make no BertText"),
        ("conditioners.c", {"classes": 3}, "make no ClassLabel"),
        ("conditioners", None, "does not say what its conditions learned"),
        ("step", "1", "or its step"),
        ("recipe", [], "recipe is not one of this version"),
        ("plugins", {"a": 1}, "its list of plugins is damaged"),
    ],
)
def test_facts_that_are_refused_before_memory_is_asked_for(tmp_path, made, monkeypatch, path, value, says):
    tensors, facts = made
    save_tensors(tmp_path / "weights.safetensors", tensors, changed(facts, path, value))

    def never(*arguments, **options):
        raise AssertionError("a network is built")

    monkeypatch.setattr(weights, "build_denoiser", never)
    with pytest.raises(MsdmError) as caught:
        Pipeline.load(tmp_path, device="cpu")
    assert says in str(caught.value).replace("its recipe", "recipe"), caught.value


def test_one_weight_more_or_less(tmp_path, made):
    tensors, facts = made
    first = min(tensors)
    save_tensors(tmp_path / "w.safetensors", {k: v for k, v in tensors.items() if k != first}, facts)
    with pytest.raises(MsdmError, match=f"it lacks '{first}'"):
        Pipeline.load(tmp_path / "w.safetensors", device="cpu")
    save_tensors(tmp_path / "w.safetensors", {**tensors, "more": torch.zeros(1)}, facts)
    with pytest.raises(MsdmError, match="it has 'more', which the recipe has no place for"):
        Pipeline.load(tmp_path / "w.safetensors", device="cpu")


def test_a_header_that_lies_about_its_length(tmp_path, made):
    save_tensors(tmp_path / "w.safetensors", *made)
    data = (tmp_path / "w.safetensors").read_bytes()
    for length in (0, 2**31, 2**63 - 1, 2**64 - 1):
        (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", length) + data[8:])
        with pytest.raises(MsdmError, match="is not a readable safetensors file"):
            Pipeline.load(tmp_path / "w.safetensors", device="cpu")
