"""The custom op of the fused norm, its twin in torch, and its kernel on a CPU."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msdm_kit.core.kernels import cpp, native, norm_op, norm_twin
from msdm_kit.core.norm import norm_modulate_silu

LAST = torch.channels_last
needs_compiler = pytest.mark.skipif(
    not any(shutil.which(command[0]) for command in cpp.compilers()), reason="no C++ compiler"
)


def problem(shape, dtype, which=(True,) * 5, offset=0.0, patch=None, rows=None):
    """A map, its optional arguments (weight, bias, gamma_beta, scale, shift) and a gradient."""
    b, c, height, width = shape
    wide = torch.promote_types(dtype, torch.float32)
    h = (torch.randn(shape) + offset).to(dtype).to(memory_format=LAST)
    gamma_beta = torch.randn(rows or b, 2 * c, *(patch or (height, width))).to(dtype)
    weight, bias, scale, shift = (torch.randn(s, dtype=wide) for s in ((c,), (c,), (b, c), (b, c)))
    given_ = [weight, bias, gamma_beta.to(memory_format=LAST), scale, shift]
    return (
        h,
        [t if used else None for t, used in zip(given_, which, strict=True)],
        torch.randn(shape).to(dtype),
    )


def exact(args):
    return [None if t is None else t.double() for t in args]


def close(ours, twin, oracle, dtype, factor=1.0):
    """`ours` within rounding of fp64: relative to the largest value, which sums are rounded against."""
    for a, b, o in zip(ours, twin, oracle, strict=True):
        assert (a is None) == (b is None) == (o is None)
        if a is not None:
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            tolerance = factor * (2e-6 if a.dtype == torch.float32 else 2**-8)
            bound = tolerance * max(1.0, float(o.abs().max()))
            torch.testing.assert_close(a.double(), o, rtol=tolerance, atol=bound)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 41), st.integers(1, 9), st.integers(1, 9))


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(
    shapes,
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.tuples(*[st.booleans()] * 5),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_the_kernel_is_the_twin(shape, dtype, which, silu, one_row, data):
    groups = data.draw(st.sampled_from([g for g in range(1, shape[1] + 1) if shape[1] % g == 0]))
    # a group of one value, or of few alike, has no variance to speak of: 1 / sqrt(eps) magnifies all rounding
    if shape[2] * shape[3] * shape[1] // groups < 8:
        groups, shape = 1, (*shape[:2], 5, 5)
    h, args, grad = problem(shape, dtype, which, rows=1 if one_row else None)
    out, mean, rstd = native.forward(h, groups, *args, silu)
    twin = norm_twin.forward(h, groups, *args, silu)
    oracle = norm_twin.forward(h.double(), groups, *exact(args), silu)
    close((out, mean, rstd), twin, oracle, dtype)
    assert out.is_contiguous(memory_format=LAST)
    if args[2] is not None:
        args[2] = args[2].expand(shape[0], -1, -1, -1)
    # both from the same statistics, rounded to fp32
    arguments = (mean, rstd, groups, *args, silu)
    ours = native.backward(grad, h, *arguments)
    twin = norm_twin.backward(grad, h, *arguments)
    oracle = norm_twin.backward(
        grad.double(), h.double(), mean.double(), rstd.double(), groups, *exact(args), silu
    )
    close(ours, twin, oracle, dtype, factor=4.0)


@needs_compiler
@pytest.mark.parametrize("size", [(5, 5), (3, 1), (1, 1)])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_reads_patches(dtype, rows, size):
    h, args, _ = problem((2, 18, 37, 29), dtype, patch=size, rows=rows)
    ours = native.forward(h, 3, *args, True)[0]
    args[2] = norm_twin.expand_patch(args[2], (37, 29)).expand(2, -1, -1, -1)
    assert torch.equal(ours, native.forward(h, 3, *args, True)[0])


@needs_compiler
@pytest.mark.parametrize("module", [native, norm_twin])
@pytest.mark.parametrize("offset", [100.0, -1000.0])
def test_a_mean_far_from_zero_costs_no_digits(module, offset):
    h, args, _ = problem((2, 32, 40, 40), torch.float32, which=(False,) * 5, offset=offset)
    # a border of zeros: no shift by a first value can help
    h[:, :, 0] = 0
    out, mean, rstd = module.forward(h, 8, *args, False)
    x = h.double().reshape(2, 8, -1)
    assert torch.allclose(mean.double(), x.mean(-1), rtol=2e-7, atol=0)
    assert torch.allclose(rstd.double(), (x.var(-1, correction=0) + norm_twin.EPS).rsqrt(), rtol=1e-6, atol=0)
    y = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + norm_twin.EPS).sqrt()
    torch.testing.assert_close(out.double(), y.view(h.shape), rtol=0, atol=3e-6)


@needs_compiler
def test_what_is_not_finite_stays_so():
    h = torch.randn(1, 20, 3, 3).to(memory_format=LAST)
    h[0, 3, 1, 1] = float("nan")
    out = native.forward(h, 2, None, None, None, None, None, True)[0]
    assert out[0, :10].isnan().all()
    assert out[0, 10:].isfinite().all()
    shift = torch.full((1, 20), 1e30)
    far = native.forward(torch.randn_like(h), 2, None, None, None, None, -shift, True)[0]
    assert (far.abs() < 1e-6).all()
    payload = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32).expand(1, 20).contiguous()
    half = torch.randn_like(h).bfloat16()
    assert native.forward(half, 2, None, None, None, None, payload, False)[0].isnan().all()


@needs_compiler
@pytest.mark.parametrize("wrong", [0, 1, 2, 3, 4])
def test_the_kernel_reads_no_tensor_of_another_shape(wrong):
    h, args, grad = problem((2, 6, 4, 5), torch.float32)
    _, mean, rstd = native.forward(h, 3, *args, True)
    args[wrong] = args[wrong][..., :3] if wrong != 2 else args[wrong][:, :6]
    with pytest.raises(ValueError, match="of shape"):
        native.forward(h, 3, *args, True)
    with pytest.raises(ValueError, match="of shape"):
        native.backward(grad, h, mean, rstd, 3, *args, True)


@needs_compiler
def test_a_patch_has_no_gradient():
    h, args, grad = problem((2, 6, 4, 5), torch.float32, patch=(3, 3))
    _, mean, rstd = native.forward(h, 3, *args, True)
    with pytest.raises(ValueError, match="expand it first"):
        native.backward(grad, h, mean, rstd, 3, *args, True)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_changes_nothing(dtype):
    h, args, grad = problem((2, 40, 45, 67), dtype)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = native.forward(h, 4, *args, True)
            found.append((*out, *native.backward(grad, h, *out[1:], 4, *args, True)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@needs_compiler
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_the_kernel_brings_no_runtime_of_its_own():
    code = """
import re, torch
from pathlib import Path
from msdm_kit.core.norm import norm_modulate_silu
maps = lambda: set(re.findall(r"/\\S*(?:gomp|iomp|libomp)\\S*", Path("/proc/self/maps").read_text()))
threads = lambda: len(list(Path("/proc/self/task").iterdir()))
torch.set_num_threads(2)
torch.randn(1 << 20).exp()
before = maps(), threads()
h = torch.randn(1, 64, 128, 128).to(memory_format=torch.channels_last)
norm_modulate_silu(h, 8)
assert (maps(), threads()) == before, (before, maps(), threads())
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
@pytest.mark.parametrize("which", [(True,) * 5, (False,) * 5, (True, True, False, True, True)])
def test_opcheck(which, layout, dtype):
    h, args, _ = problem((2, 6, 4, 5), dtype, which)
    h = h.contiguous(memory_format=layout)
    for t in (h, *args):
        if t is not None:
            t.requires_grad_()
    torch.library.opcheck(norm_op.norm_modulate_silu, (h, 3, *args, True))


@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
@pytest.mark.parametrize("which", [(True,) * 5, (False,) * 5])
def test_opcheck_of_the_backward(which, layout):
    h, args, grad = problem((2, 6, 4, 5), torch.float32, which)
    h = h.contiguous(memory_format=layout)
    _, mean, rstd = norm_twin.forward(h, 3, *args, True)
    torch.library.opcheck(norm_op.norm_modulate_silu_backward, (grad, h, mean, rstd, 3, *args, True))


def test_gradcheck_of_the_twin():
    h, args, _ = problem((2, 4, 3, 2), torch.float64)
    inputs = [t.requires_grad_() for t in (h, *args)]

    def call(h, *args):
        return norm_op.norm_modulate_silu(h, 2, *args, True)[0]

    assert norm_op.implementation(h) is norm_twin
    assert torch.autograd.gradcheck(call, inputs)


def test_gradients_only_where_they_are_asked_for():
    h, args, grad = problem((2, 6, 4, 5), torch.float32)
    args[3].requires_grad_()
    norm_op.norm_modulate_silu(h, 3, *args, True)[0].backward(grad)
    assert args[3].grad is not None
    assert h.grad is None


def test_shapes_on_the_meta_device():
    h = torch.empty(2, 6, 4, 5, device="meta", dtype=torch.bfloat16)
    gamma_beta = torch.empty(1, 12, 4, 5, device="meta", dtype=torch.bfloat16)
    out = norm_modulate_silu(h, 3, gamma_beta=gamma_beta)
    assert (out.shape, out.dtype, out.device.type) == (h.shape, h.dtype, "meta")
