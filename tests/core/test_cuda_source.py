"""The CUDA sources without a GPU: compiled as C++ over an emulation, and run."""

import ctypes
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msdm_kit.core.kernels import cross_attention_cuda, norm_cuda, nvrtc
from msdm_kit.core.kernels.cross_attention_op import twin
from msdm_kit.core.norm import EPS, expand_patch

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
SOURCES = ("common.cuh", "norm.cu", "norm_backward.cu", "cross_attention.cu")
FAILURES = {
    1: "a thread left before a barrier",
    2: "wrote past its shared memory",
    3: "too much shared memory",
}
ORDERS = (0, 1, 2)


def instances() -> list[str]:
    """The kernels that the tests launch."""
    names = []
    for dtype, wide in ((torch.float32, 4), (torch.bfloat16, 8)):
        for vector in dict.fromkeys((wide, 4, 1)):
            names += norm_cuda.forward_kernels(dtype, vector)
        for vector in (4, 1):
            names += norm_cuda.backward_kernels(dtype, vector)
            names += cross_attention_cuda.kernel_names(dtype, vector)
    return list(dict.fromkeys(names))


class Emulation:
    """Launches on the CPU, each in the order of threads that `order` names."""

    def __init__(self, library: Path) -> None:
        self.run = ctypes.CDLL(str(library)).run
        self.names = instances()
        self.order = 0

    def __call__(self, name, grid, block, args, shared):
        assert block[1:] == (1, 1)
        assert max(grid) < 2**16
        addresses, alive = nvrtc.pack(args)
        dims = (ctypes.c_uint * 3)(*grid)
        index = self.names.index(name)
        failure = self.run(index, addresses, dims, block[0], ctypes.c_size_t(shared), self.order)
        assert not failure, f"{name}: {FAILURES.get(failure, failure)}"
        assert alive


@pytest.fixture(scope="module")
def gpu(tmp_path_factory):
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("emulation")
    cases = "\n".join(
        f"case {i}: return launch({n}, args, grid, threads, bytes, order);" for i, n in enumerate(instances())
    )
    text = [
        Path(__file__).with_name("cuda_emulation.h").read_text(encoding="utf-8"),
        nvrtc.read_source(*SOURCES),
        'extern "C" int run(int kernel, void** args, const unsigned* grid, unsigned threads, size_t bytes, '
        f"int order) {{ switch (kernel) {{ {cases} }} return -1; }}",
    ]
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text("\n".join(text), encoding="utf-8")
    flags = ["-std=c++20", "-O1", "-fno-strict-aliasing", "-w", "-shared", "-fPIC"]
    built = subprocess.run(
        [COMPILER, *flags, str(source), "-o", str(library)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr[:4000]
    return Emulation(library)


def oracle(h, groups, weight, bias, gamma_beta, scale, shift, silu):
    """The definition in fp64."""
    b, c = h.shape[:2]
    g = h.reshape(b, groups, -1)
    y = (g - g.mean(-1, keepdim=True)) / (g.var(-1, correction=0, keepdim=True) + EPS).sqrt()
    y = y.view(h.shape)
    y = y if weight is None else y * weight.view(1, c, 1, 1)
    y = y if bias is None else y + bias.view(1, c, 1, 1)
    if gamma_beta is not None:
        gamma, beta = expand_patch(gamma_beta, h.shape[2:]).chunk(2, dim=1)
        y = y * (1 + gamma) + beta
    y = y if scale is None else y * (1 + scale[:, :, None, None])
    y = y if shift is None else y + shift[:, :, None, None]
    return y * y.sigmoid() if silu else y


def case(dtype, shape, which, samples=None, patch=None, mean=0.0, seed=0):
    """h and the optional terms, those in `which`: w, b, m (a map), s, t."""
    make = torch.Generator().manual_seed(seed)
    b, c, height, width = shape
    h = torch.randn(shape, generator=make) + mean
    size = patch or (height, width)
    gamma_beta = torch.randn(samples or b, 2 * c, *size, generator=make).to(dtype)
    time = torch.randn(b, 2 * c, generator=make)
    terms = {
        "w": torch.randn(c, generator=make),
        "b": torch.randn(c, generator=make),
        "m": gamma_beta.to(memory_format=torch.channels_last),
        "s": time[:, :c],  # rows of stride 2 C, as an embedding's halves have
        "t": time[:, c:],
    }
    h = h.to(dtype).to(memory_format=torch.channels_last)
    return h, [terms[k] if k in which else None for k in "wbmst"]


def wide(x):
    return None if x is None else x.double()


def close(found, expected, dtype, digits=1.0):
    """Within the rounding of a bf16 result, or of an fp32 computation."""
    relative = 1e-5 if dtype is torch.float32 else 2**-8
    scale = expected.abs().max().item() + 1e-3
    torch.testing.assert_close(
        found.double(),
        expected,
        rtol=digits * relative,
        atol=digits * scale * (1e-6 if relative < 1e-4 else 1e-4),
    )


ALL = [
    "".join(w for w, on in zip("wbmst", bits, strict=True) if on)
    for bits in itertools.product((0, 1), repeat=5)
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", ALL)
def test_forward_with_every_choice_of_terms(gpu, dtype, which):
    h, terms = case(dtype, (2, 16, 5, 7), which)
    silu = len(which) % 2 == 0
    out, mean, rstd = norm_cuda.forward(h, 4, *terms, silu, launch=gpu)
    close(out, oracle(h.double(), 4, *map(wide, terms), silu), dtype)
    g = h.double().reshape(2, 4, -1)
    torch.testing.assert_close(mean.double(), g.mean(-1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rstd.double(), 1 / (g.var(-1, correction=0) + EPS).sqrt(), rtol=1e-5, atol=0)
    assert out.is_contiguous(memory_format=torch.channels_last)


# one pixel; odd sizes; a width that no vector divides; vectors that divide neither a warp nor a block; more
# channels than a block has vectors; several blocks to a sample; a group of one channel
SHAPES = [
    ((3, 8, 1, 1), 2),
    ((2, 6, 3, 5), 3),
    ((1, 36, 9, 4), 12),
    ((1, 40, 6, 6), 5),
    ((1, 24, 13, 11), 3),
    ((1, 2560, 2, 3), 32),
    ((1, 1030, 3, 3), 2),
    ((2, 8, 40, 37), 2),
    ((1, 16, 4, 4), 16),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_forward_and_backward_at_every_kind_of_shape(gpu, shape, groups, dtype):
    h, terms = case(dtype, shape, "wbmst")
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    results = []
    for gpu.order in ORDERS:
        out, mean, rstd = norm_cuda.forward(h, groups, *terms, True, launch=gpu)
        results.append((out, *norm_cuda.backward(grad, h, mean, rstd, groups, *terms, True, launch=gpu)))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))
    inputs = [x.double().requires_grad_() for x in (h, *terms)]
    expected = oracle(inputs[0], groups, *inputs[1:], True)
    close(results[0][0], expected.detach(), dtype)
    for found, exact in zip(
        results[0][1:], torch.autograd.grad(expected, inputs, grad.double()), strict=True
    ):
        close(found, exact, dtype, 4)


@pytest.mark.parametrize("which", ALL)
def test_backward_with_every_choice_of_terms(gpu, which):
    h, terms = case(torch.float32, (2, 8, 5, 6), which, samples=1 if len(which) == 3 else None)
    silu = len(which) % 2 == 1
    out, mean, rstd = norm_cuda.forward(h, 2, *terms, silu, launch=gpu)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    found = norm_cuda.backward(grad, h, mean, rstd, 2, *terms, silu, launch=gpu)
    inputs = [
        h.double().requires_grad_(),
        *(None if t is None else t.double().requires_grad_() for t in terms),
    ]
    some = [x for x in inputs if x is not None]
    exact = torch.autograd.grad(oracle(inputs[0], 2, *inputs[1:], silu), some, grad.double())
    assert [x is None for x in found] == [x is None for x in inputs]
    for x, y in zip([x for x in found if x is not None], exact, strict=True):
        close(x, y, torch.float32, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("patch", [(1, 1), (3, 3), (5, 3), (3, 6), (7, 9)])
@pytest.mark.parametrize("samples", [1, 2])
def test_a_patch_stands_for_a_map(gpu, dtype, patch, samples):
    h, terms = case(dtype, (2, 8, 7, 9) if patch != (3, 6) else (2, 8, 7, 6), "mst", samples, patch)
    out = norm_cuda.forward(h, 2, *terms, True, launch=gpu)[0]
    close(out, oracle(h.double(), 2, *map(wide, terms), True), dtype)
    if patch != h.shape[2:]:
        with pytest.raises(ValueError, match="no map of the size"):
            norm_cuda.backward(h, h, torch.zeros(2, 2), torch.ones(2, 2), 2, *terms, True, launch=gpu)


@pytest.mark.parametrize("mean", [100.0, -3e3])
def test_a_large_mean_does_not_cancel(gpu, mean):
    h, terms = case(torch.float32, (1, 8, 33, 20), "", mean=mean)
    out, found, rstd = norm_cuda.forward(h, 2, *terms, False, launch=gpu)
    g = h.double().reshape(1, 2, -1)
    torch.testing.assert_close(rstd.double(), (g.var(-1, correction=0) + EPS).rsqrt(), rtol=1e-5, atol=0)
    # what is left is the rounding of the mean itself to fp32
    assert (found.double() - g.mean(-1)).abs().max() <= abs(mean) * 2**-23
    assert (out - oracle(h.double(), 2, *terms, False)).abs().max() < abs(mean) * 2**-22 + 1e-5


def test_channels_of_different_means_and_a_constant_map(gpu):
    h = torch.zeros(1, 8, 6, 6) + torch.arange(8.0).view(1, 8, 1, 1) * 10
    mean, rstd = norm_cuda.forward(h, 2, *[None] * 5, False, launch=gpu)[1:]
    torch.testing.assert_close(mean, torch.tensor([[15.0, 55.0]]))
    torch.testing.assert_close(rstd, torch.full((1, 2), 125 + EPS).rsqrt())
    out, _, rstd = norm_cuda.forward(torch.full((1, 8, 6, 6), 7.0), 2, *[None] * 5, False, launch=gpu)
    assert (out == 0).all()
    torch.testing.assert_close(rstd, torch.full((1, 2), EPS**-0.5))


def test_other_layouts_keep_theirs_and_misaligned_maps_are_laid_anew(gpu):
    h, terms = case(torch.bfloat16, (2, 16, 5, 7), "m")
    expected = norm_cuda.forward(h, 4, *terms, True, launch=gpu)[0]
    plain = norm_cuda.forward(h.contiguous(), 4, *terms, True, launch=gpu)[0]
    assert plain.is_contiguous()
    assert torch.equal(plain, expected)
    memory = torch.empty(h.numel() + 1, dtype=h.dtype)
    shifted = memory[1:].view(2, 5, 7, 16).permute(0, 3, 1, 2).copy_(h)
    assert shifted.data_ptr() % 16
    assert torch.equal(norm_cuda.forward(shifted, 4, *terms, True, launch=gpu)[0], expected)


def test_infinities_and_nans_stay_where_they_are(gpu):
    h, terms = case(torch.bfloat16, (1, 8, 4, 4), "m")
    terms[2][0, 8, 0, 0], terms[2][0, 9, 0, 1], terms[2][0, 10, 1, 0] = float("nan"), 3e38, -3e38
    out = norm_cuda.forward(h, 2, *terms, True, launch=gpu)[0]
    expected = oracle(h.double(), 2, *map(wide, terms), True)
    assert out[0, 0, 0, 0].isnan()
    assert out.isnan().sum() == 1
    assert out[0, 2, 1, 0] == 0
    torch.testing.assert_close(out[0, 1, 0, 1].double(), expected[0, 1, 0, 1], rtol=2**-8, atol=0)


@given(
    pixels=st.integers(1, 2**19),
    channels=st.integers(1, 4096),
    batch=st.integers(1, 8),
    blocks=st.integers(1, 4096),
)
def test_spans_cover_every_pixel_once(pixels, channels, batch, blocks):
    vector = norm_cuda.vector_width(channels, torch.bfloat16)
    span, chunks = norm_cuda.spans(pixels, channels, vector, batch, blocks)
    assert (chunks - 1) * span < pixels <= chunks * span
    assert chunks * batch <= blocks + batch


def attention_case(dtype, shape, heads, tokens, samples, masked, seed=0):
    make = torch.Generator().manual_seed(seed)
    c = shape[1]
    h = torch.randn(shape, generator=make).to(dtype).to(memory_format=torch.channels_last)
    a = (torch.randn(samples, c, heads * tokens, generator=make) / c**0.5).to(dtype)
    m = torch.randn(samples, heads * tokens, c, generator=make).to(dtype)
    bias = torch.randn(c, generator=make).to(dtype)
    mask = None
    if masked:
        mask = torch.rand(samples, tokens, generator=make) < 0.6
        mask[:, 0] = True
    return h, a, m, bias, mask, heads


ATTENTION = [
    ((2, 16, 3, 3), 2, 4, 2),
    ((2, 8, 4, 4), 2, 6, 1),
    ((1, 6, 3, 5), 3, 5, 1),
    ((1, 20, 1, 1), 4, 1, 1),
    ((1, 1040, 2, 2), 8, 3, 1),
    ((1, 32, 2, 3), 2, 40, 1),
    ((1, 12, 2, 4), 8, 130, 1),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shape", "heads", "tokens", "samples"), ATTENTION)
def test_cross_attention(gpu, shape, heads, tokens, samples, masked, dtype):
    given = attention_case(dtype, shape, heads, tokens, samples, masked)
    results = []
    for gpu.order in ORDERS:
        results.append(cross_attention_cuda.forward(*given, launch=gpu))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    exact = twin(*(x.double() if torch.is_tensor(x) and x.is_floating_point() else x for x in given))
    close(results[0], exact, dtype, 2)
    assert results[0].is_contiguous(memory_format=torch.channels_last)


def test_a_masked_token_counts_for_nothing_whatever_its_score(gpu):
    h, a, m, bias, _, heads = attention_case(torch.float32, (1, 8, 2, 2), 2, 4, 1, False)
    a[..., 1::4] = 1e4 * a[..., 1::4].abs()
    h = h.abs()
    mask = torch.tensor([[True, False, True, True]])
    found = cross_attention_cuda.forward(h, a, m, bias, mask, heads, launch=gpu)
    close(found, twin(h.double(), a.double(), m.double(), bias.double(), mask, heads), torch.float32, 2)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_cross_attention_at_any_shape(gpu, data):
    b, c = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 40))
    shape = (b, c, data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5)))
    heads, tokens = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    given = attention_case(torch.float32, shape, heads, tokens, data.draw(st.sampled_from([1, b])), True)
    gpu.order = data.draw(st.sampled_from(ORDERS))
    exact = twin(*(x.double() if torch.is_tensor(x) and x.is_floating_point() else x for x in given))
    close(cross_attention_cuda.forward(*given, launch=gpu), exact, torch.float32, 2)


def test_a_missing_barrier_is_found(tmp_path):
    """The emulation sees what it is there to see: a reversal through shared memory without a barrier."""
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    kernel = """
    template <bool BARRIER> __global__ void reverse(float* x) {
        extern __shared__ __align__(16) float shared[];
        shared[threadIdx.x] = x[threadIdx.x];
        if (BARRIER) __syncthreads();
        x[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
    }
    __global__ void leaves(float* x) { if (threadIdx.x) __syncthreads(); }
    extern "C" int run(int k, void** a, const unsigned* g, unsigned t, size_t s, int o) {
        return k == 0 ? launch(reverse<false>, a, g, t, s, o) : k == 1 ? launch(reverse<true>, a, g, t, s, o)
            : launch(leaves, a, g, t, s, o);
    }"""
    source, library = tmp_path / "k.cpp", tmp_path / "k.so"
    source.write_text(Path(__file__).with_name("cuda_emulation.h").read_text(encoding="utf-8") + kernel)
    flags = ["-std=c++20", "-w", "-shared", "-fPIC"]
    subprocess.run([COMPILER, *flags, str(source), "-o", str(library)], check=True)
    run, grid = ctypes.CDLL(str(library)).run, (ctypes.c_uint * 3)(1, 1, 1)

    def reversed_by(kernel, order, shared=256):
        x = torch.arange(64.0)
        addresses, alive = nvrtc.pack([x])
        failure = run(kernel, addresses, grid, 64, ctypes.c_size_t(shared), order)
        assert alive
        return failure, torch.equal(x, torch.arange(63.0, -1, -1))

    assert [reversed_by(0, order) for order in ORDERS] == [(0, False)] * 3
    assert [reversed_by(1, order) for order in ORDERS] == [(0, True)] * 3
    assert reversed_by(1, 0, shared=252)[0] == 2
    assert reversed_by(2, 0)[0] == 1
