"""The estimate against networks that are small enough to be counted by hand, or measured."""

import pytest
import torch
from torch import nn

from msdm_kit.core.recipe import Recipe
from msdm_kit.plugins.build import build_conditioners, build_denoiser
from msdm_kit.plugins.estimate import _Autocast, _Live, count_parameters, estimate_memory, meta_denoiser

ROWS = [{"id": "a", "assay": "x", "indication": "y"}]


def recipe(**train) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "small",
            "data": {"crop": 32},
            "conditioners": {
                "morphology": {"type": "hv_maps"},
                "tissue": {"type": "class_label", "column": "indication", "dim": 4},
            },
            "injectors": [
                {"type": "spade", "from": ["morphology"], "at": ["middle", "decoder"], "hidden": 8},
                {"type": "film", "from": ["tissue"], "at": ["embedding"]},
            ],
            "backbone": {
                "type": "unet",
                "channels": 16,
                "multipliers": [1, 2],
                "blocks": 1,
                "attention_strides": [2],
                "head_channels": 16,
                "groups": 8,
            },
            "train": {"steps": 1, "batch": 2, "precision": "fp32", **train},
        }
    )


def test_parts_are_those_of_the_real_network():
    made = recipe()
    real = build_denoiser(made, build_conditioners(made, rows=ROWS))
    meta = meta_denoiser(made, ROWS)
    assert {p.device.type for p in meta.parameters()} == {"meta"}
    parts = count_parameters(meta, made)
    assert parts == count_parameters(real, made)
    assert list(parts) == [
        "backbone",
        "conditioners.morphology",
        "conditioners.tissue",
        "injectors.0 (spade)",
        "injectors.1 (film)",
    ]
    assert parts["conditioners.tissue"] == 2 * 4
    assert sum(parts.values()) == sum(p.numel() for p in real.parameters())


def test_weights_gradients_moments_and_average():
    made = recipe()
    denoiser = meta_denoiser(made, ROWS)
    denoiser.conditioner("tissue").requires_grad_(False)
    memory = estimate_memory(denoiser, made)
    total = sum(p.numel() for p in denoiser.parameters())
    assert memory.weights == 4 * total
    assert memory.gradients == memory.average == 4 * (total - 8)
    assert memory.moments == 8 * (total - 8)
    assert memory.activations is not None
    assert memory.total == 4 * total + 16 * (total - 8) + memory.activations


def test_live_storages_of_a_chain_are_counted_by_hand():
    x = torch.empty(4, 256, device="meta", requires_grad=True)  # 4 KiB
    with _Live() as live:
        y = x * 2  # a factor saves nothing
        z = y.view(2, 512)  # shares its storage
        assert live.now == 4096
        w = z.exp()
        del y, z
        assert live.now == 4096
        del w
    assert (live.now, live.peak) == (0, 8192)


def test_autocast_is_emulated():
    linear = nn.Linear(4, 4, device="meta")
    norm = nn.GroupNorm(2, 4, device="meta")
    x = torch.empty(2, 4, device="meta")
    with _Autocast(True):
        assert linear(x).dtype == torch.bfloat16
        assert norm(linear(x)).dtype == torch.float32
    with _Autocast(False):
        assert linear(x).dtype == torch.float32


def activations(**train) -> int:
    made = recipe(**train)
    found = estimate_memory(meta_denoiser(made, ROWS), made).activations
    assert found is not None
    return found


def test_activations_follow_batch_precision_and_checkpointing():
    base = activations()
    assert activations(batch=4) == pytest.approx(2 * base, rel=0.05)
    assert activations(precision="bf16") < base
    assert activations(checkpointing=True) < 0.8 * base


def test_the_estimate_is_what_the_cpu_holds():
    """Against the bytes that autograd saves in a real pass, fp32 and without checkpointing."""
    made = recipe()
    real = build_denoiser(made, build_conditioners(made, rows=ROWS))
    from msdm_kit.core.conditioning import Signal

    seen: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in real.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        signals = {
            "morphology": Signal(torch.zeros(2, 4, 32, 32)),
            "tissue": real.conditioner("tissue").encode({"index": torch.zeros(2, dtype=torch.int64)}),
        }
        loss = real(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64), signals).square().mean()
    saved = sum(s.nbytes() for key, s in seen.items() if key not in own)
    loss.backward()
    # The peak is in the backward pass, when gradients of activations are held beside what was saved.
    assert saved <= activations() <= 1.5 * saved


def test_a_plugin_that_does_not_run_on_meta_leaves_the_activations_unknown(monkeypatch):
    made = recipe()
    denoiser = meta_denoiser(made, ROWS)
    monkeypatch.setattr(denoiser.backbone, "encode", lambda *args: 1 / 0)
    memory = estimate_memory(denoiser, made)
    assert memory.activations is None
    assert memory.total == memory.weights + memory.gradients + memory.moments + memory.average
    assert all(p.grad is None for p in denoiser.parameters())
