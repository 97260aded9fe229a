"""AutoencoderKL from a folder: what it gives, and every way in which the folder can be wrong."""

import json
import socket
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from msdm_kit.core.autoencoder import to_images, to_latents
from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.autoencoders.kl import KL, WEIGHTS, KLConfig

from ..autoencoders import save_kl


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_kl(tmp_path_factory.mktemp("kl"))


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may damage."""
    for name in ("config.json", WEIGHTS):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    return tmp_path


def load(folder):
    made = KL(KLConfig(model=str(folder)))
    made.initialise()
    return made.eval()


def configure(folder, **words):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | words))


def image(seed=0):
    return torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def theirs(folder):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()


def test_latents_are_those_of_diffusers(saved, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network is asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    own, other, x = load(saved), theirs(saved), image()
    assert (own.channels, own.stride) == (4, 2)
    with torch.no_grad():
        mean = other.encode(x).latent_dist.mean
        assert torch.equal(to_latents(own, x), mean * torch.tensor(0.18215))
        torch.testing.assert_close(to_images(own, mean * 0.18215), other.decode(mean).sample)


def test_scale_and_shift_are_those_of_the_config(folder):
    plain = load(folder).encode(image())
    configure(folder, scaling_factor=2.0, shift_factor=0.5)
    moved = load(folder)
    torch.testing.assert_close(moved.encode(image()), (plain / 0.18215 - 0.5) * 2)
    configure(folder, shift_factor=None, latents_mean=[1, 2, 3, 4], latents_std=[1, 2, 4, 8])
    each = load(folder)
    mean, deviation = torch.tensor([[1.0, 2, 3, 4], [1, 2, 4, 8]]).view(2, 1, 4, 1, 1)
    torch.testing.assert_close(each.encode(image()), (plain / 0.18215 - mean) * 2 / deviation)
    for own in (moved, each):
        torch.testing.assert_close(own.decode(own.encode(image())), load(folder).decode(each.encode(image())))
    assert len({moved.fingerprint, each.fingerprint}) == 2


def test_names_of_older_files_are_understood(folder):
    wanted = load(folder)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(folder / WEIGHTS)
    renamed = {}
    for name, tensor in tensors.items():
        for new, before in old.items():
            if "attentions" in name:
                name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = tensor
    assert renamed.keys() != tensors.keys()
    save_file(renamed, folder / WEIGHTS)
    found = load(folder)
    assert found.fingerprint == wanted.fingerprint
    assert torch.equal(found.encode(image()), wanted.encode(image()))


def without(name):
    return lambda folder: (folder / name).unlink()


def pickled(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def one_tensor_less(folder):
    tensors = load_file(folder / WEIGHTS)
    del tensors["encoder.conv_in.bias"]
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without("config.json"), "no file"),
        (without(WEIGHTS), f"no file .*{WEIGHTS}"),
        (pickled, f"is a pickle, which is not loaded; run: msdm-kit convert weights .*{WEIGHTS}"),
        (one_tensor_less, "1 weights differ, the first is encoder.conv_in.bias"),
        (lambda folder: configure(folder, block_out_channels=[4, 16]), "weights differ"),
        (lambda folder: configure(folder, _class_name="VQModel"), "describes VQModel, not an AutoencoderKL"),
        (lambda folder: configure(folder, in_channels=4), "in_channels"),
        (lambda folder: configure(folder, block_out_channels=[10**9, 10**9]), "block_out_channels"),
        (lambda folder: configure(folder, layers_per_block=10**9), "layers_per_block"),
        (lambda folder: configure(folder, scaling_factor=0), "scaling_factor"),
        (lambda folder: configure(folder, latents_mean=[1.0, 2.0]), "4 numbers"),
        (lambda folder: configure(folder, norm_num_groups=3), "makes no AutoencoderKL"),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "describes list"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"no safetensors"), "not a readable safetensors"),
    ],
)
def test_a_wrong_folder_is_one_line(folder, damage, reason):
    damage(folder)
    with pytest.raises(MsdmError, match=reason) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_there_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MsdmError, match=r"no autoencoder folder '\./nowhere'"):
        KL(KLConfig(model="./nowhere"))
    with pytest.raises(MsdmError, match="hf download some/autoencoder"):
        KL(KLConfig(model="some/autoencoder"))


def test_without_diffusers_it_says_what_to_install(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders.autoencoder_kl", None)
    with pytest.raises(MsdmError, match=r"pip install 'msdm-kit\[diffusers\]'"):
        KL(KLConfig(model=str(saved)))
