"""A network whose convolutions run the fastest way paints what it painted before."""

import copy

import pytest
import torch
from torch import nn

from msdm_kit.core.conditioning import at
from msdm_kit.core.kernels import convolutions, packed_conv, winograd
from msdm_kit.core.kernels.convolutions import accelerated, doubled_conv
from msdm_kit.core.kernels.packed_conv import PackedConv2d
from msdm_kit.core.kernels.winograd import WinogradConv2d
from msdm_kit.core.precision import native_bf16
from msdm_kit.core.recipe import DiffusionSection, SampleSection
from msdm_kit.core.sampling import Sampler
from msdm_kit.core.solvers import ddim

from ..toy import SIDE, observations, toy_denoiser, toy_unet

CPU = torch.device("cpu")
WIDE = {"channels": 32, "head_channels": 32, "groups": 8}

here = pytest.mark.skipif(
    not (winograd.available(torch.float32) and packed_conv.available(torch.float32)),
    reason="a kernel is missing here",
)


def inject(site, h, scale=None, shift=None):
    return h


@here
@pytest.mark.parametrize("residual_updown", [True, False])
def test_an_accelerated_network_shares_its_weights_and_predicts_the_same(monkeypatch, residual_updown):
    monkeypatch.setattr(packed_conv, "FEWEST_WEIGHTS", 0)
    unet = toy_unet(**WIDE, residual_updown=residual_updown).eval()
    for p in unet.parameters():
        nn.init.normal_(p, std=0.1)
    keys = set(unet.state_dict())
    twin = accelerated(unet)
    assert twin is not unet
    assert {id(p) for p in twin.parameters()} == {id(p) for p in unet.parameters()}
    assert set(unet.state_dict()) == keys
    assert not any(isinstance(m, PackedConv2d | WinogradConv2d) for m in unet.modules())
    assert all(isinstance(m, WinogradConv2d) for n, m in twin.named_modules() if n.endswith("out_conv"))
    assert isinstance(twin.input_conv, PackedConv2d)
    x, t = torch.randn(2, 3, SIDE, SIDE), torch.tensor([7, 300])
    with torch.no_grad():
        expected = unet.decode(unet.encode(x, t, inject), inject)
        found = twin.decode(twin.encode(x, t, inject), inject)
    doubled = [m for m in twin.modules() if isinstance(m, WinogradConv2d) and True in m._weights]
    assert len(doubled) == 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_where_nothing_is_faster_the_module_stays(monkeypatch):
    monkeypatch.setattr(convolutions, "packs", lambda conv: False)
    monkeypatch.setattr(convolutions, "suits", lambda conv: False)
    unet = toy_unet(**WIDE)
    assert accelerated(unet) is unet
    monkeypatch.undo()
    double = copy.deepcopy(unet).double()
    assert accelerated(double) is double


def test_doubled_with_any_layer():
    x, conv = torch.randn(1, 3, 4, 5), nn.Conv2d(3, 4, 3, padding=1)
    expected = conv(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    assert torch.equal(doubled_conv(conv, x), expected)


@here
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_a_sampler_paints_the_same_on_and_off(monkeypatch, precision, guidance):
    """fp32 to 1e-5 of the image, rms; bf16 to the error that bf16 itself has."""
    if precision == "bf16" and not native_bf16(CPU):
        pytest.skip("no bf16 here")
    denoiser = toy_denoiser("spade", diffusion=DiffusionSection(prediction="v"), unet=WIDE)
    with torch.no_grad():
        signals = denoiser.encode(observations(denoiser, 2))

    def paint(precision=precision, signals=signals, ids=("a", "b")):
        section = SampleSection(steps=4, spacing="trailing", guidance=guidance, precision=precision)
        sampler = Sampler(denoiser, section, ddim)
        return sampler.draw(signals, ids=ids, size=(SIDE, SIDE), seed=0), sampler

    on, sampler = paint()
    layers = [m for m in sampler._fast.backbone.modules() if isinstance(m, WinogradConv2d)]
    assert all(m._weights for m in layers)
    assert len(layers) > 8
    assert torch.equal(paint()[0], on)
    exact = paint("fp32")[0]
    monkeypatch.setattr(convolutions, "suits", lambda conv: False)
    off, sampler = paint()
    assert not any(isinstance(m, WinogradConv2d) for m in sampler._fast.modules())
    if precision == "fp32":
        assert (on - off).norm() <= 1e-5 * off.norm()
    else:
        assert (on - exact).norm() <= max(3 * (off - exact).norm(), 1e-2 * exact.norm())


@here
def test_a_training_step_is_torchs_own():
    denoiser = toy_denoiser("spade", unet=WIDE)
    fast = accelerated(denoiser)
    signals = {k: at(s, slice(1)) for k, s in denoiser.encode(observations(denoiser, 1)).items()}
    x, t = torch.randn(1, 3, SIDE, SIDE), torch.tensor([7])
    losses = [m(x, t, signals).square().mean() for m in (denoiser, fast)]
    assert torch.equal(*losses)
    gradients = [torch.autograd.grad(loss, list(denoiser.backbone.parameters())) for loss in losses]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
