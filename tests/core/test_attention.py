import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from msdm_kit.core.attention import SelfAttention, attention, attention_fused, attention_reference

from ..toy import randomise

SHAPES = [(1, 1, 1), (7, 7, 4), (33, 5, 5), (1, 33, 16)]  # queries, keys, head width
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


def qkv(queries, keys, width, *, batch=2, heads=3, dtype=torch.float64):
    g = torch.Generator().manual_seed(queries * 100 + keys)
    return tuple(
        torch.randn(batch, heads, n, width, generator=g, dtype=torch.float64).to(dtype)
        for n in (queries, keys, keys)
    )


def padding(batch, keys):
    """The first row has all keys, the last one only the first."""
    counts = torch.linspace(keys, 1, batch).round().long()
    return torch.arange(keys) < counts[:, None]


def oracle(q, k, v, mask=None):
    """Equation 1 of Vaswani et al. 2017, query by query, in fp64."""
    out = torch.empty_like(q)
    for index in torch.cartesian_prod(*[torch.arange(n) for n in q.shape[:3]]).view(-1, 3):
        b, n, i = index.tolist()
        w = torch.exp(k[b, n] @ q[b, n, i] / q.shape[-1] ** 0.5)
        if mask is not None:
            w = w * mask[b]
        out[b, n, i] = (w / w.sum()) @ v[b, n]
    return out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_reference_is_the_equation(shape, masked):
    q, k, v = qkv(*shape)
    mask = padding(2, shape[1]) if masked else None
    torch.testing.assert_close(attention_reference(q, k, v, mask), oracle(q, k, v, mask))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_forward_and_backward_against_fp64(implementation, shape, masked, dtype):
    given = [t.to(dtype).requires_grad_() for t in qkv(*shape)]
    exact = [t.detach().double().requires_grad_() for t in given]
    mask = padding(2, shape[1]) if masked else None
    out = attention(*given, mask, implementation=implementation)
    truth = attention_reference(*exact, mask)
    assert out.dtype == dtype
    weight = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (out.double() * weight).sum().backward()
    (truth * weight).sum().backward()
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(out.double(), truth, **close)
    for ours, theirs in zip(given, exact, strict=True):
        # a gradient is a sum over queries or keys, and rounds with their magnitude
        scale = theirs.grad.abs().max().clamp(min=1)
        torch.testing.assert_close(ours.grad.double() / scale, theirs.grad / scale, **close)


@pytest.mark.parametrize("function", [attention_fused, attention_reference])
def test_padding_does_not_matter(function):
    q, k, v = qkv(7, 6, 5, dtype=torch.float32)
    mask = torch.tensor([[True] * 4 + [False] * 2] * 2)
    out = function(q, k, v, mask)
    torch.testing.assert_close(out, function(q, k[:, :, :4], v[:, :, :4]))
    k[:, :, 4:], v[:, :, 4:] = 1e4, -1e4
    assert torch.equal(function(q, k, v, mask), out)


def test_large_scores_do_not_overflow():
    q, k, v = (300 * t for t in qkv(7, 7, 4, dtype=torch.bfloat16))
    assert attention_reference(q, k, v).isfinite().all()
    assert attention_fused(q, k, v).isfinite().all()


def test_self_attention_is_the_identity_at_first():
    x = torch.randn(2, 8, 3, 5)
    assert torch.equal(SelfAttention(8, 4, 2)(x), x)


def test_self_attention_takes_either_layout():
    layer = SelfAttention(15, 5, 3)
    randomise(layer)
    x = torch.randn(2, 15, 3, 5)
    a, b = x.clone().requires_grad_(), x.to(memory_format=torch.channels_last).requires_grad_()
    out_a, out_b = layer(a), layer(b)
    torch.testing.assert_close(out_a, out_b)
    out_a.square().sum().backward()
    out_b.square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_self_attention_implementations_agree():
    layer = SelfAttention(8, 4, 2)
    randomise(layer)
    x = torch.randn(1, 8, 7, 1)
    fused = layer(x)
    layer.implementation = "reference"
    torch.testing.assert_close(layer(x), fused)


def test_self_attention_does_not_know_where_pixels_are():
    layer = SelfAttention(8, 4, 2)
    randomise(layer)
    x = torch.randn(1, 8, 4, 6)
    torch.testing.assert_close(layer(x.flip(2, 3)), layer(x).flip(2, 3))


def test_heads_must_divide():
    with pytest.raises(ValueError, match="3 does not divide 8"):
        SelfAttention(8, 3, 2)


class NoCopies(TorchDispatchMode):
    """Fails where anything but a parameter is copied or cast."""

    # contiguous, reshape and flatten are a clone where they are not a view
    COPIES = ("aten::clone", "aten::copy_", "aten::_to_copy")

    def __init__(self, module):
        super().__init__()
        self.parameters = {p.data_ptr() for p in module.parameters()}
        self.calls = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split(".")[0]
        self.calls.add(name)
        if name in self.COPIES:
            copied = args[1] if name == "aten::copy_" else args[0]
            assert copied.data_ptr() in self.parameters, f"{name} of {tuple(copied.shape)}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "autocast", "bf16"])
def test_self_attention_copies_nothing_in_channels_last(precision, batch):
    layer = SelfAttention(32, 16, 4)
    randomise(layer)
    x = torch.randn(batch, 32, 4, 6).to(memory_format=torch.channels_last)
    exact = layer(x)
    if precision != "fp32":
        x = x.bfloat16()
    if precision == "bf16":
        layer = layer.bfloat16()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast")
    with torch.no_grad(), autocast, NoCopies(layer) as seen:
        out = layer(x)
    assert "aten::addmm" in seen.calls
    assert out.dtype == x.dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out.float(), exact, rtol=0, atol=1e-6 if precision == "fp32" else 5e-2)


def test_copies_would_be_seen():
    layer = SelfAttention(8, 4, 2)
    with torch.no_grad(), pytest.raises(AssertionError, match="aten::clone of"), NoCopies(layer):
        layer(torch.randn(1, 8, 4, 6)).contiguous(memory_format=torch.channels_last).contiguous()
