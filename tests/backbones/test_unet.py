import pytest
from pydantic import ValidationError

from msdm_kit.backbones.unet import UNetConfig
from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.check import check_plugins
from msdm_kit.plugins.recipe_files import load_recipe

from ..toy import toy_unet


@pytest.mark.parametrize("strides", [(4,), (2, 8), (0,), (3,), (-1,)])
def test_strides_with_attention_are_the_networks(strides):
    with pytest.raises(
        ValidationError, match="is none of this network's, which are 1, 2; take of these, or none"
    ):
        UNetConfig(multipliers=(1, 2), attention_strides=strides)
    assert UNetConfig(multipliers=(1, 2), attention_strides=()).attention_strides == ()


def test_every_stride_can_have_attention():
    names = {site.name for site in toy_unet(attention_strides=(1, 2)).sites if site.kind == "residual"}
    assert names == {"middle.1.residual"} | {
        f"{part}.residual" for part in ("encoder.0.1", "encoder.2.1", *(f"decoder.{i}.1" for i in range(4)))
    }


def test_a_recipe_says_which_strides_are_legal():
    with pytest.raises(
        MsdmError,
        match=r"backbone: .*attention_strides: 32 is none of this network's, which are 1, 2, 4, 8, 16",
    ):
        check_plugins(load_recipe("sdm", ["backbone.multipliers=[1, 1, 2, 3, 4]"]))
