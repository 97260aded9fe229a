import pytest
import torch
from torch import nn

from msdm_kit.core.kernels import packed_conv
from msdm_kit.core.kernels.packed_conv import MOST_PIXELS, PackedConv2d, packs

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


def test_which_layers_are_packed(monkeypatch):
    large, small = conv_of(128, 128, 3), conv_of(8, 8, 3)
    monkeypatch.setattr(packed_conv, "available", lambda dtype: True)
    assert packs(large)
    assert packs(conv_of(128, 128, 3, dtype=torch.bfloat16, stride=2))
    assert not packs(small)
    assert not packs(nn.Conv2d(128, 128, 3, padding="same"))
    assert not packs(nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"))
    assert not packs(conv_of(128, 128, 3).double())
    monkeypatch.setattr(packed_conv, "available", lambda dtype: False)
    assert not packs(large)
