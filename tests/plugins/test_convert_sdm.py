"""The key mapping of released SDM weights; tests/test_golden.py has the numbers that come out."""

import pytest
import torch

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.convert_sdm import convert, describe

NETWORKS = ["hv4_cosine", "guide16_linear", "strided_cosine"]


@pytest.fixture
def state(golden):
    return golden("guide16_linear").state


@pytest.mark.parametrize("name", NETWORKS)
def test_shape_is_read_off_the_weights(golden, name):
    g = golden(name)
    words, shape = g.arguments["unet"], describe(g.state)
    assert shape.channels == words["model_channels"]
    assert list(shape.multipliers) == words["channel_mult"]
    assert shape.blocks == words["num_res_blocks"]
    assert list(shape.attention_strides) == words["attention_resolutions"]
    assert shape.map_channels == words["num_classes"]
    assert shape.out_channels == words["out_channels"]
    assert shape.learned_variance == (words["out_channels"] == 6)
    assert shape.residual_updown == words["resblock_updown"]
    assert shape.scale_shift == words["use_scale_shift_norm"]
    assert shape.hidden == 128


@pytest.mark.parametrize("name", NETWORKS)
def test_every_number_is_carried_over_once(golden, name):
    theirs = golden(name).state
    ours = convert(theirs)
    assert sum(t.numel() for t in ours.values()) == sum(t.numel() for t in theirs.values())
    for power in (1, 2):  # of fp32 numbers in fp64
        carried = sum(float((t.double() ** power).sum()) for t in ours.values())
        assert carried == pytest.approx(sum(float((t.double() ** power).sum()) for t in theirs.values()))
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in ours.values())


def test_gamma_stands_before_beta_and_attention_is_linear(state):
    ours = convert(state)
    site = "injections.0.injectors.middle_0_in_norm"
    gamma, beta = ours[f"{site}.gamma_beta.weight"].chunk(2)
    assert torch.equal(gamma, state["middle_block.0.in_norm.mlp_gamma.weight"])
    assert torch.equal(beta, state["middle_block.0.in_norm.mlp_beta.weight"])
    qkv = state["middle_block.1.qkv.weight"]
    assert qkv.ndim == 3
    assert torch.equal(ours["backbone.middle.1.attention.qkv.weight"], qkv[:, :, 0])


def test_spade_may_stand_at_another_place_in_the_recipe(state):
    ours = convert(state, injection=2)
    assert "injections.2.injectors.decoder_0_0_in_norm.shared.weight" in ours
    assert not any(k.startswith("injections.0.") for k in ours)


def test_half_precision_is_widened(state):
    ours = convert({k: v.half() for k, v in state.items()})
    assert {t.dtype for t in ours.values()} == {torch.float32}


def test_unknown_keys_are_named(state):
    state |= {f"label_emb.{i}.weight": torch.zeros(1) for i in range(5)}
    message = r"unknown 5 keys: label_emb.0.weight, label_emb.1.weight, label_emb.2.weight and 2 more"
    with pytest.raises(MsdmError, match=message):
        convert(state)


def test_missing_keys_are_named(state):
    del state["middle_block.2.out_norm.mlp_beta.bias"]
    with pytest.raises(MsdmError, match=r"misses 1 keys: middle_block.2.out_norm.mlp_beta.bias"):
        convert(state)


@pytest.mark.parametrize(
    "key",
    [
        "time_embed.0.weight",
        "middle_block.0.in_norm.mlp_shared.0.weight",
        "input_blocks.1.0.in_layers.2.weight",
    ],
)
def test_another_network_is_refused(state, key):
    del state[key]
    with pytest.raises(MsdmError, match="not an SDM checkpoint"):
        describe(state)


def test_an_image_that_is_not_rgb_is_refused(state):
    state["input_blocks.0.0.weight"] = torch.zeros(64, 1, 3, 3)
    with pytest.raises(MsdmError, match="this checkpoint 1 and 6"):
        describe(state)
