"""The custom op of folded cross-attention, on the CPU: definition, gradients, what torch asks of an op."""

import pytest
import torch

from msdm_kit.core.kernels.cross_attention_op import operator, short_cross_attention, twin


def case(dtype=torch.float64, samples=2, masked=True):
    make = torch.Generator().manual_seed(0)
    h = torch.randn(2, 8, 3, 2, generator=make, dtype=torch.float64)
    a = torch.randn(samples, 8, 2 * 3, generator=make, dtype=torch.float64)
    b = torch.randn(samples, 2 * 3, 8, generator=make, dtype=torch.float64)
    bias = torch.randn(8, generator=make, dtype=torch.float64)
    mask = torch.tensor([[True, False, True], [True, True, True]])[:samples] if masked else None
    tensors = [t.to(dtype) for t in (h.to(memory_format=torch.channels_last), a, b, bias)]
    return *tensors, mask, 2


def test_by_hand():
    """One pixel, one head, two tokens of equal score: the mean of both values is added."""
    h = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    b = torch.tensor([[[3.0, 5.0], [7.0, 11.0]]])
    bias = torch.tensor([0.5, 0.25])
    out = short_cross_attention(h, torch.zeros(1, 2, 2), b, bias, None, 1)
    torch.testing.assert_close(out.flatten(), torch.tensor([1 + 5 + 0.5, 2 + 8 + 0.25]))
    mask = torch.tensor([[False, True]])
    out = short_cross_attention(h, torch.zeros(1, 2, 2), b, bias, mask, 1)
    torch.testing.assert_close(out.flatten(), torch.tensor([1 + 7 + 0.5, 2 + 11 + 0.25]))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("samples", [1, 2])
def test_gradients(samples, masked):
    *tensors, mask, heads = case(samples=samples, masked=masked)
    for t in tensors:
        t.requires_grad_()
    assert torch.autograd.gradcheck(lambda *t: operator(*t, mask, heads), tensors)
    grad = torch.randn(2, 8, 3, 2, dtype=torch.float64)
    ours = torch.autograd.grad(operator(*tensors, mask, heads), tensors, grad)
    theirs = torch.autograd.grad(twin(*tensors, mask, heads), tensors, grad)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("differentiable", [False, True])
def test_opcheck(dtype, differentiable):
    *tensors, mask, heads = case(dtype)
    given = [t.requires_grad_(differentiable) for t in tensors]
    torch.library.opcheck(operator, (*given, mask, heads))


def test_dtype_and_memory_format_are_those_of_the_map():
    h, a, b, bias, mask, heads = case(torch.float32)
    for format in (torch.channels_last, torch.contiguous_format):
        x = h.bfloat16().contiguous(memory_format=format)
        out = short_cross_attention(x, a, b, bias, mask, heads)
        assert out.dtype == torch.bfloat16
        assert out.is_contiguous(memory_format=format)


def test_shapes_that_do_not_fit_are_refused():
    h, a, b, bias, mask, heads = case(torch.float32)
    wrong = [
        (h, a[:, :4], b, bias, mask, heads),
        (h, a, b.mT, bias, mask, heads),
        (h, a, b, bias[:3], mask, heads),
        (h, a, b, bias, mask[:, :2], heads),
        (h, a, b, bias, mask.float(), heads),
        (h, a, b, bias, mask, 4),
        (h.expand(2, -1, -1, -1), a.repeat(2, 1, 1)[:3], b, bias, mask, heads),
    ]
    for given in wrong:
        with pytest.raises(ValueError, match="not \\(B, C, H, W\\)"):
            short_cross_attention(*given)
