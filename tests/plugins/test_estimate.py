"""The estimate against networks that are small enough to be counted by hand, or measured."""

import re

import pytest
import torch
from torch import nn

from msdm_kit.core.conditioning import Signal
from msdm_kit.core.denoiser import nbytes
from msdm_kit.core.kernels.winograd import WinogradConv2d
from msdm_kit.core.precision import native_bf16
from msdm_kit.core.recipe import Recipe, SampleSection
from msdm_kit.core.sampling import Sampler
from msdm_kit.plugins import estimate, painting_estimate
from msdm_kit.plugins.build import build_conditioners, build_denoiser
from msdm_kit.plugins.estimate import choose_checkpointing, estimate_memory
from msdm_kit.plugins.meta_modes import Autocast, Live
from msdm_kit.plugins.meta_pass import meta_denoiser, model_flops, step_bytes
from msdm_kit.plugins.meta_sampling import painting_bytes
from msdm_kit.plugins.painting_estimate import memory_notes
from msdm_kit.plugins.pipeline import Pipeline
from msdm_kit.plugins.plan import count_parameters
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.solver import load_solver

CPU = torch.device("cpu")
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
    meta = meta_denoiser(made, rows=ROWS)
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
    denoiser = meta_denoiser(made, rows=ROWS)
    denoiser.conditioner("tissue").requires_grad_(False)
    memory = estimate_memory(denoiser, made, CPU, checkpointing=False)
    total = sum(p.numel() for p in denoiser.parameters())
    assert memory.weights == 4 * total
    assert memory.average == 4 * (total - 8)
    assert memory.moments == 8 * (total - 8)
    maps = sum(p.numel() for p in denoiser.parameters() if p.ndim == 4)
    assert memory.saving == 16 * maps
    assert memory.preview is None
    assert memory.step > 4 * (total - 8)  # its gradients
    assert memory.more == 4 * total + 12 * (total - 8) + memory.step
    assert memory.total == memory.more + memory.process


def test_live_storages_of_a_chain_are_counted_by_hand():
    x = torch.empty(4, 256, device="meta", requires_grad=True)  # 4 KiB
    with Live() as live:
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
    with Autocast(True):
        assert linear(x).dtype == torch.bfloat16
        assert norm(linear(x)).dtype == torch.float32
    with Autocast(False):
        assert linear(x).dtype == torch.float32


def step(*, batch: int = 2, accumulate: int = 1, bf16: bool = False, checkpointing: bool = False) -> int:
    made = recipe(batch=batch, accumulate=accumulate)
    denoiser = meta_denoiser(made, rows=ROWS)
    found = step_bytes(denoiser, made, bf16=bf16, checkpointing=checkpointing)
    assert found is not None
    return found


def test_a_step_follows_batch_precision_and_checkpointing():
    base = step(batch=8)
    assert step(batch=16) == pytest.approx(2 * base, rel=0.05)
    assert step(batch=8, bf16=True) < base
    assert step(batch=8, checkpointing=True) < 0.8 * base


def test_gradients_come_as_activations_go_but_where_they_wait_for_the_next_pass():
    gradients = 4 * sum(p.numel() for p in meta_denoiser(recipe(), rows=ROWS).parameters())
    assert gradients < step(batch=1) < step(batch=1, accumulate=2) <= step(batch=1) + gradients


def test_every_recipe_of_ours_can_be_estimated():
    made = load_recipe("msdm", ["data.crop=64", "train.batch=1"])
    denoiser = meta_denoiser(made, rows=ROWS)
    plain, spared = (estimate_memory(denoiser, made, CPU, checkpointing=on).step for on in (False, True))
    assert plain is not None
    assert spared is not None
    assert spared < plain


def test_operations_of_a_network_counted_by_hand():
    """A linear layer on every pixel: 2 in the forward, 4 in the backward pass per weight and pixel."""
    made = recipe()
    denoiser = meta_denoiser(made, rows=ROWS)
    backbone = denoiser.backbone
    conv = nn.Conv2d(3, 3, 1, bias=False, device="meta")
    backbone.register_module("only", conv)
    backbone.encode = lambda x, t, inject: conv(x.requires_grad_())
    backbone.decode = lambda features, inject: features
    assert model_flops(denoiser, made) == (2 + 4) * 9 * 2 * 32 * 32


@pytest.mark.parametrize(
    ("free", "on", "said"),
    [
        (1e12, False, "auto is off: training takes about"),
        (0, True, "even so it may not fit: lower train.batch or data.crop"),
    ],
)
def test_checkpointing_where_memory_needs_it(monkeypatch, free, on, said):
    monkeypatch.setattr(estimate, "free_memory", lambda device: int(free))
    made = recipe()
    denoiser = meta_denoiser(made, rows=ROWS)
    choice = choose_checkpointing(denoiser, made, CPU)
    assert choice.on is on
    assert choice.memory.more == estimate_memory(denoiser, made, CPU, checkpointing=on).more
    (note,) = choice.notes
    assert said in note


def test_checkpointing_starts_where_the_estimate_passes_its_share(monkeypatch):
    made = recipe()
    denoiser = meta_denoiser(made, rows=ROWS)
    plain = estimate_memory(denoiser, made, CPU, checkpointing=False).more
    for factor, on in ((0.99, True), (1.01, False)):
        free = int(factor * plain / estimate.SHARE)
        monkeypatch.setattr(estimate, "free_memory", lambda device, free=free: free)
        choice = choose_checkpointing(denoiser, made, CPU)
        assert choice.on is on
    monkeypatch.setattr(estimate, "free_memory", lambda device: int(0.9 * plain / estimate.SHARE))
    (note,) = choose_checkpointing(denoiser, made, CPU).notes
    assert "may not fit" not in note


@pytest.mark.parametrize("setting", [True, False])
def test_a_recipe_that_says_is_obeyed_without_an_estimate(setting):
    made = recipe(checkpointing=setting)
    choice = choose_checkpointing(meta_denoiser(made, rows=ROWS), made, CPU)
    assert (choice.on, choice.memory, choice.notes) == (setting, None, ())


def test_the_estimate_is_what_the_cpu_holds():
    """Against the bytes that autograd saves in a real pass, fp32 and without checkpointing."""
    made = recipe()
    real = build_denoiser(made, build_conditioners(made, rows=ROWS))
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
    gradients = sum(p.grad.nbytes for p in real.parameters() if p.grad is not None)
    assert saved <= step() <= 1.5 * (saved + gradients)


def test_a_plugin_that_does_not_run_on_meta_leaves_the_activations_unknown(monkeypatch):
    made = recipe()
    denoiser = meta_denoiser(made, rows=ROWS)
    monkeypatch.setattr(denoiser.backbone, "encode", lambda *args: 1 / 0)
    memory = estimate_memory(denoiser, made, CPU, checkpointing=False)
    assert memory.step is None
    assert memory.more == memory.weights + memory.moments + memory.average + memory.saving
    assert all(p.grad is None for p in denoiser.parameters())
    assert model_flops(denoiser, made) is None
    (note,) = choose_checkpointing(denoiser, made, CPU).notes
    assert "is off: memory could not be estimated" in note


def test_the_estimate_of_painting_is_what_painting_holds():
    """Against the storages that are alive in real sampling, on the CPU."""
    made = recipe()
    real = build_denoiser(made, build_conditioners(made, rows=ROWS)).eval()
    chosen = Pipeline(made, real, weights_hash="", step=0).settings(steps=3)
    found = painting_bytes(
        meta_denoiser(made, rows=ROWS), chosen, size=(32, 32), batch=1, device=CPU, budget=None
    )
    with torch.inference_mode():
        signals = {
            "morphology": Signal(torch.zeros(1, 4, 32, 32).contiguous(memory_format=torch.channels_last)),
            "tissue": real.conditioner("tissue").encode({"index": torch.zeros(1, dtype=torch.int64)}),
        }
        sampler = Sampler(real, chosen, load_solver(chosen.solver))
        states = sampler.prepare(signals, None)
        sampler.draw(signals, ids=["a"], size=(32, 32), seed=0)
    layers = [m for m in sampler._fast.modules() if isinstance(m, WinogradConv2d)]
    transformed = sum(w.nbytes for layer in layers for w in layer._weights.values())
    kept = transformed + sum(map(nbytes, states))
    skips = 4 * 32 * 32 * 16  # a map of the first level
    assert kept + 3 * skips <= found <= kept + 16 * skips


def test_painting_follows_size_precision_budget_and_windows():
    made = recipe()
    denoiser, small = meta_denoiser(made, rows=ROWS), SampleSection(steps=2, spacing="trailing")

    def found(size, settings=small, **more):
        words = {"batch": 1, "device": CPU, "budget": None, **more}
        return painting_bytes(denoiser, settings, size=(size, size), **words)

    assert found(64) > 2 * found(32)
    assert found(64, batch=2) > 1.5 * found(64)
    assert found(64, budget=0) < found(64)
    assert found(32) < found(32, groups=9) <= found(32) + 8 * found(32)
    few = found(32, groups=9, budget=2**16)
    assert few <= found(32, budget=2**16) + 2**16
    if native_bf16(CPU):
        assert found(64, small.model_copy(update={"precision": "bf16"})) < found(64)


def test_a_warning_names_what_fits(monkeypatch):
    made = recipe()
    real = build_denoiser(made, build_conditioners(made, rows=ROWS)).eval()
    chosen = Pipeline(made, real, weights_hash="", step=0).settings()
    (note,) = memory_notes(made, real, chosen, size=(64, 64), batch=1)
    assert "painting takes about" in note
    assert "may not fit" not in note
    takes = painting_estimate.estimate_painting(made, real, chosen, size=(64, 64)).painting
    monkeypatch.setattr(painting_estimate, "free_memory", lambda device: takes)
    (note,) = memory_notes(made, real, chosen, size=(64, 64), batch=1)
    assert re.search(r"it may not fit; (--window \d+ )?--batch 1 --memory 0.* would fit \(\d+ MiB\)$", note)
    monkeypatch.setattr(painting_estimate, "free_memory", lambda device: 0)
    assert "no smaller window fits" in memory_notes(made, real, chosen, size=(64, 64), batch=1)[0]
