"""The conformance matrix: every registered name of every kind, through the kit that third parties use.

One class per name is made here; pytest collects it as if it were written out.
"""

from pathlib import Path

import pytest
import torch

from msdm_kit.plugins.hookspecs import KINDS
from msdm_kit.plugins.host import get_host
from msdm_kit.plugins.testing import CONFORMANCE, matrix

from .. import toy
from ..autoencoders import save_kl

HOST = get_host()
TINY_TRAINING = {"epochs": 11, "crops": 1, "batch": 1, "channels": [4, 8], "crop": 32}
SETTINGS = {
    **toy.SETTINGS,
    "drop_instances": {"fraction": 0.4},
    "duplicate_instances": {"fraction": 0.5},
    "scratch-small": TINY_TRAINING,
    "timm": {},
    "kl": {},
    "h-optimus-0": {},
}
WEIGHTS = ("timm", "h-optimus-0")
"""Embedders that take their network from a folder."""
globals().update(matrix({kind: HOST.names(kind) for kind in KINDS}, SETTINGS))


@pytest.fixture(autouse=True, scope="module")
def _a_network_of_timm(tmp_path_factory):
    """A transformer with random weights, as timm saves models, for the embedders that read one."""
    import timm
    from timm.models import save_for_hf

    folder: Path = tmp_path_factory.mktemp("tiny")
    arguments = {"img_size": 224, "depth": 1, "embed_dim": 24, "num_heads": 2, "init_values": 1e-5}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **arguments)
    save_for_hf(network, str(folder), model_args=arguments, safe_serialization=True)
    for name in WEIGHTS:
        SETTINGS[name]["model"] = f"local-dir:{folder}"


@pytest.fixture(autouse=True, scope="module")
def _a_small_autoencoder(tmp_path_factory):
    """An AutoencoderKL with random weights, as diffusers saves it."""
    SETTINGS["kl"]["model"] = str(save_kl(tmp_path_factory.mktemp("kl")))


def test_every_kind_has_its_checks():
    assert set(CONFORMANCE) == set(KINDS)


def test_every_name_is_in_the_matrix():
    found = {(c.kind, c.plugin) for c in globals().values() if isinstance(c, type) and hasattr(c, "plugin")}
    assert found == {(kind, name) for kind in KINDS for name in HOST.names(kind)}
