"""Networks of timm as embedders: normalisation, tiles, weights that are here and weights that are not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.embedders.fields import embed_fields

from .test_embedders import field, make, picture


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A transformer of timm with random weights, as timm saves models."""
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    arguments = {"img_size": 224, "depth": 1, "embed_dim": 24, "num_heads": 2, "init_values": 1e-5}
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **arguments)
    folder = tmp_path_factory.mktemp("tiny")
    save_for_hf(network, str(folder), model_args=arguments, safe_serialization=True)
    return folder


def test_a_network_from_a_folder_gives_the_features_of_timm(tiny):
    import timm

    embedder = make(f"timm:model=local-dir:{tiny}")
    assert embedder.tile == 224
    assert embedder.pixel_size is None
    image = picture(size=(224, 224))
    network = timm.create_model(f"local-dir:{tiny}", pretrained=True, num_classes=0).eval()
    mean, std = (torch.tensor(network.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.inference_mode():
        wanted = network(((torch.from_numpy(image) + 1) / 2 - mean)[None] / std).numpy()
    np.testing.assert_allclose(embedder.embed([image]), wanted, rtol=1e-5, atol=1e-6)


def test_h_optimus_0_normalises_as_its_card_says(tiny):
    embedder = make(f"h-optimus-0:model=local-dir:{tiny}")
    assert (embedder.tile, embedder.pixel_size) == (224, 0.5)
    seen = []
    embedder._network = lambda batch: seen.append(batch) or torch.zeros(len(batch), 2)
    mean, std = np.array([0.707223, 0.578729, 0.703617]), np.array([0.211883, 0.230117, 0.177517])
    image = np.broadcast_to((mean * 2 - 1).astype(np.float32)[:, None, None], (3, 224, 224))
    one_above = np.broadcast_to(((mean + std) * 2 - 1).astype(np.float32)[:, None, None], (3, 224, 224))
    embedder.embed([image, one_above])
    assert seen[0].shape == (2, 3, 224, 224)
    np.testing.assert_allclose(seen[0][0], 0, atol=1e-5)
    np.testing.assert_allclose(seen[0][1], 1, atol=1e-5)


def test_fields_of_the_paper_become_tiles_of_224_pixels_at_half_a_micrometre(tiny):
    embedder = make(f"h-optimus-0:model=local-dir:{tiny}")
    seen = []
    embedder._network = lambda batch: seen.append(len(batch)) or torch.zeros(len(batch), 2)
    embed_fields(
        embedder, [field(0, (512, 512), pixel_size_um="0.25"), field(1, (224, 224), pixel_size_um="0.5")]
    )
    assert seen == [5]  # 512 pixels of 0.25 are 256 of 0.5: four tiles; and one


def test_the_fingerprint_is_that_of_the_weights_wherever_they_lie(tiny, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    first = make(f"timm:model=local-dir:{tiny}").fingerprint
    assert make(f"timm:model=local-dir:{copy}").fingerprint == first
    assert make(f"timm:model=local-dir:{copy},pixel_size=0.5").fingerprint != first
    weights = load_file(copy / "model.safetensors")
    weights["cls_token"] = weights["cls_token"] + 1
    save_file(weights, copy / "model.safetensors")
    assert make(f"timm:model=local-dir:{copy}").fingerprint != first


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("timm", "model"),
        ("timm:model=no_such_network", "has no model 'no_such_network'"),
        ("timm:model=local-dir:{tmp}", "has no config.json"),
        ("timm:model=resnet18.a1_in1k", r"hf download timm/resnet18\.a1_in1k model\.safetensors"),
        ("timm:model=hf-hub:nobody/nothing", "hf download nobody/nothing config.json model.safetensors"),
        ("h-optimus-0", "hf download bioptimus/H-optimus-0"),
        ("no-such-embedder", "no embedder 'no-such-embedder'"),
    ],
)
def test_missing_weights_fail_at_once_and_say_what_to_run(text, says, tmp_path, monkeypatch):
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(MsdmError, match=says) as caught:
        make(text.replace("{tmp}", str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_pickled_and_foreign_weights_are_refused(tiny, tmp_path):
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(MsdmError, match="is a pickle, which is not loaded; run: msdm-kit convert weights"):
        make(f"timm:model=local-dir:{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(MsdmError, match="do not make model"):
        make(f"timm:model=local-dir:{tmp_path}")
    config = json.loads((tiny / "config.json").read_text())
    config["model_args"]["embed_dim"] = 12
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes())
    with pytest.raises(MsdmError, match="do not make model"):
        make(f"timm:model=local-dir:{tmp_path}")


def test_weights_in_the_cache_of_the_hub_are_found(tiny, tmp_path, monkeypatch):
    snapshot = tmp_path / "models--somebody--tiny" / "snapshots" / "abc"
    shutil.copytree(tiny, snapshot)
    refs = tmp_path / "models--somebody--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    embedder = make("timm:model=hf-hub:somebody/tiny")
    assert embedder.fingerprint == make(f"timm:model=local-dir:{tiny}").fingerprint
