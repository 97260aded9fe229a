import pytest
import timm
import torch
from msdm_kit_reference.conditioner import Reference, ReferenceConfig
from safetensors.torch import save_file

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.testing import ConditionerConformance, RecipeConformance, toy_sample


class TestReference(ConditionerConformance):
    plugin = "reference"
    settings = {"model": "test_vit", "dim": 16}  # noqa: RUF012


class TestConvolutions(ConditionerConformance):
    plugin = "reference"
    settings = {"model": "test_resnet", "dim": 16}  # noqa: RUF012


class TestRecipe(RecipeConformance):
    plugin = "reference"


def test_the_tokens_are_those_of_timm(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_vit").eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    reference = Reference(ReferenceConfig(model="test_vit", weights=tmp_path / "model.safetensors"), {})
    reference.initialise()
    mean, std = (torch.tensor(network.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    sample = toy_sample(0, (160, 160))
    with torch.no_grad():
        wanted = network.forward_features(((torch.from_numpy(sample.image) + 1) / 2 - mean)[None] / std)
        found = reference.encode(reference.collate([reference.observe(sample)])).data
        torch.testing.assert_close(found, reference.linear(wanted), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_damaged_weights_are_a_message(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    reference = Reference(ReferenceConfig(model="test_vit", weights=tmp_path / "w.safetensors"), {})
    with pytest.raises(MsdmError, match="does not hold the weights"):
        reference.initialise()


def test_a_model_that_is_none():
    with pytest.raises(MsdmError, match="no model 'vit_nano'"):
        Reference(ReferenceConfig(model="vit_nano"), {})
