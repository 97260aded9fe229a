import copy

import pytest
import torch
from torch import nn

from msdm_kit.core.kernels import packed_conv
from msdm_kit.core.kernels.packed_conv import MOST_PIXELS, PackedConv2d, packed

from ..toy import SIDE, toy_unet

here = pytest.mark.skipif(not packed_conv.available(torch.float32), reason="oneDNN packs nothing here")


def conv_of(c_in, c_out, kernel, stride=1, dtype=torch.float32, bias=True):
    torch.manual_seed(0)
    conv = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=bias)
    return conv.to(dtype).to(memory_format=torch.channels_last)


@here
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8, 8, 1), (3, 20, 3), (64, 6, 3), (130, 33, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_numbers_are_the_plain_convolutions(shape, stride, dtype):
    if not packed_conv.available(dtype):
        return
    conv = conv_of(*shape, stride=stride, dtype=dtype)
    layer = PackedConv2d(conv)
    with torch.no_grad():
        for batch, height, width in ((1, 4, 4), (2, 5, 7), (1, 4, 4), (1, 40, 40)):
            x = torch.randn(batch, shape[0], height, width).to(dtype).to(memory_format=torch.channels_last)
            out, plain = layer(x), conv(x)
            exact = nn.functional.conv2d(
                x.double(), conv.weight.double(), conv.bias.double(), stride, shape[2] // 2
            )
            assert out.dtype == dtype
            assert out.is_contiguous(memory_format=torch.channels_last)
            error, theirs = ((y - exact).abs().max() for y in (out, plain))
            assert error <= 2 * theirs + 1e-6 * exact.abs().max()


@here
def test_only_small_maps_without_gradients_are_packed():
    layer = PackedConv2d(conv_of(4, 4, 3))
    layer(torch.randn(1, 4, 4, 4))
    assert layer._packed is None
    side = int(MOST_PIXELS**0.5) + 1
    with torch.no_grad():
        layer(torch.randn(1, 4, side, side))
        assert layer._packed is None
        layer(torch.randn(1, 4, 4, 4))
        assert layer._packed is not None
    layer(torch.randn(1, 4, 4, 4)).sum().backward()
    assert layer.conv.weight.grad is not None


@here
def test_under_autocast_as_the_plain_convolution():
    if not packed_conv.available(torch.bfloat16):
        return
    x = torch.randn(1, 8, 4, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for conv in (conv_of(8, 8, 3), conv_of(8, 8, 3, dtype=torch.bfloat16)):
            out = PackedConv2d(conv)(x)
            assert out.dtype == torch.bfloat16
            torch.testing.assert_close(out, conv(x))


@here
def test_a_packed_network_shares_its_weights_and_paints_the_same(monkeypatch):
    assert packed(toy_unet()).input_conv.__class__ is nn.Conv2d
    monkeypatch.setattr(packed_conv, "FEWEST_WEIGHTS", 0)
    unet = toy_unet().eval()
    for p in unet.parameters():
        nn.init.normal_(p, std=0.1)
    keys = set(unet.state_dict())
    twin = packed(unet)
    assert twin is not unet
    assert {id(p) for p in twin.parameters()} == {id(p) for p in unet.parameters()}
    assert set(unet.state_dict()) == keys
    assert not any(isinstance(m, PackedConv2d) for m in unet.modules())
    assert all(isinstance(m, PackedConv2d) for n, m in twin.named_modules() if n.endswith("out_conv"))

    def inject(site, h, scale=None, shift=None):
        return h

    x, t = torch.randn(1, 3, SIDE, SIDE), torch.tensor([7])
    with torch.no_grad():
        expected = unet.decode(unet.encode(x, t, inject), inject)
        found = twin.decode(twin.encode(x, t, inject), inject)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_where_nothing_can_be_packed_the_module_stays(monkeypatch):
    monkeypatch.setattr(packed_conv, "FEWEST_WEIGHTS", 0)
    monkeypatch.setattr(packed_conv, "available", lambda dtype: False)
    unet = toy_unet()
    assert packed(unet) is unet
    assert packed(copy.deepcopy(unet).double()).input_conv.__class__ is nn.Conv2d
