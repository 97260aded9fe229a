"""The CUDA kernels on a GPU against their twins: ``pytest -m gpu``. `test_cuda_source` needs none."""

import threading

import pytest
import torch

from msdm_kit.core.kernels import cross_attention_cuda, cross_attention_op, norm_cuda, norm_op, norm_twin

pytestmark = pytest.mark.gpu

TYPES = [torch.float32, torch.bfloat16]
# many blocks; few; a width for 4 but not for 8; for none
SHAPES = [((2, 256, 64, 96), 32), ((1, 1024, 16, 16), 32), ((2, 36, 33, 31), 12), ((2, 30, 17, 9), 3)]


def norm_case(shape, dtype, patch=None):
    b, c, height, width = shape
    make = torch.Generator("cuda").manual_seed(0)

    def draw(*size):
        return torch.randn(size, generator=make, device="cuda")

    h = (draw(*shape) * 2 + 3).to(dtype).to(memory_format=torch.channels_last)
    gamma_beta = draw(b, 2 * c, *(patch or (height, width))).to(dtype)
    time = draw(b, 2 * c)
    terms = [draw(c), draw(c), gamma_beta.to(memory_format=torch.channels_last), time[:, :c], time[:, c:]]
    return h, terms


def close(found, expected, dtype):
    scale = expected.float().abs().max().item()
    relative = 1e-4 if dtype is torch.float32 else 2**-7
    absolute = scale * (1e-5 if dtype is torch.float32 else 1e-3)
    torch.testing.assert_close(found.float(), expected.float(), rtol=relative, atol=absolute)


def attention_case(dtype, pixels=(16, 12), channels=512, heads=8, tokens=11, samples=2):
    make = torch.Generator("cuda").manual_seed(0)

    def draw(*size):
        return torch.randn(size, generator=make, device="cuda").to(dtype)

    h = draw(2, channels, *pixels).to(memory_format=torch.channels_last)
    a = draw(samples, channels, heads * tokens) / channels**0.5
    mask = torch.arange(tokens, device="cuda").expand(samples, -1) < tokens - 3
    return h, a, draw(samples, heads * tokens, channels), draw(channels), mask, heads


def captured(function):
    """The result of a function replayed from a CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = function()
    graph.replay()
    torch.cuda.synchronize()
    return out


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_the_norm_and_its_gradients_are_the_twins(shape, groups, dtype):
    h, terms = norm_case(shape, dtype)
    assert norm_op.implementation(h) is norm_cuda
    out, mean, rstd = norm_cuda.forward(h, groups, *terms, True)
    expected = norm_twin.forward(h.double(), groups, *(t.double() for t in terms), True)
    close(out, expected[0], dtype)
    torch.testing.assert_close(mean.double(), expected[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rstd.double(), expected[2], rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(out)
    ours = norm_cuda.backward(grad, h, mean, rstd, groups, *terms, True)
    theirs = norm_twin.backward(
        *(t.double() for t in (grad, h, mean, rstd)), groups, *(t.double() for t in terms), True
    )
    for x, y in zip(ours, theirs, strict=True):
        close(x, y, dtype)
    again = norm_cuda.backward(grad, h, mean, rstd, groups, *terms, True)
    assert all(torch.equal(x, y) for x, y in zip(ours, again, strict=True))


@pytest.mark.parametrize("dtype", TYPES)
def test_a_patch(dtype):
    h, terms = norm_case((2, 64, 33, 40), dtype, patch=(5, 5))
    expected = norm_twin.forward(h.double(), 32, *(t.double() for t in terms), True)[0]
    close(norm_cuda.forward(h, 32, *terms, True)[0], expected, dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_opcheck_of_the_norm(dtype):
    h, terms = norm_case((2, 16, 6, 5), dtype)
    given = [t.detach().requires_grad_() for t in (h, *terms)]
    torch.library.opcheck(norm_op.norm_modulate_silu, (given[0], 4, *given[1:], True))


@pytest.mark.parametrize("dtype", TYPES)
def test_the_norm_in_a_graph_and_in_another_thread(dtype):
    h, terms = norm_case((2, 128, 32, 32), dtype)
    expected = norm_cuda.forward(h, 32, *terms, True)[0]
    assert torch.equal(captured(lambda: norm_cuda.forward(h, 32, *terms, True)[0]), expected)
    found = []
    thread = threading.Thread(target=lambda: found.append(norm_cuda.forward(h, 32, *terms, True)[0]))
    thread.start()
    thread.join()
    assert torch.equal(found[0], expected)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [512, 1024, 90])
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("pixels", [(8, 8), (40, 40)])
def test_cross_attention_is_the_twin(dtype, channels, samples, pixels):
    given = attention_case(dtype, pixels=pixels, channels=channels, samples=samples)
    assert cross_attention_cuda.available(given[0], given[1])
    found = cross_attention_op.short_cross_attention(*given)
    exact = cross_attention_op.twin(*(t.double() for t in given[:4]), *given[4:])
    close(found, exact, dtype)
    assert torch.equal(captured(lambda: cross_attention_op.short_cross_attention(*given)), found)


@pytest.mark.parametrize("dtype", TYPES)
def test_gradients_of_cross_attention(dtype):
    *tensors, mask, heads = attention_case(dtype)
    given = [t.detach().requires_grad_() for t in tensors]
    exact = [t.detach().double().requires_grad_() for t in tensors]
    out = cross_attention_op.short_cross_attention(*given, mask, heads)
    grad = torch.randn_like(out)
    ours = torch.autograd.grad(out, given, grad)
    theirs = torch.autograd.grad(cross_attention_op.twin(*exact, mask, heads), exact, grad.double())
    for x, y in zip(ours, theirs, strict=True):
        error = (x.double() - y).norm() / y.norm()
        assert error < (1e-4 if dtype is torch.float32 else 2e-2)


@pytest.mark.parametrize("dtype", TYPES)
def test_opcheck_of_cross_attention(dtype):
    *tensors, mask, heads = attention_case(dtype, pixels=(4, 3), channels=32, tokens=5)
    given = [t.detach().requires_grad_() for t in tensors]
    torch.library.opcheck(cross_attention_op.operator, (*given, mask, heads))


def test_a_context_that_needs_more_shared_memory_than_a_kernel_has_by_itself():
    given = attention_case(torch.float32, pixels=(48, 48), channels=1024, heads=8, tokens=100)
    assert cross_attention_cuda.shared_bytes(1024, 800, 4) > 48 * 1024
    exact = cross_attention_op.twin(*(t.double() for t in given[:4]), *given[4:])
    close(cross_attention_cuda.forward(*given), exact, torch.float32)
