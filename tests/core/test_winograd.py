"""Winograd's convolution: known answers, against fp64, the same bits for any threads, fall-backs."""

import platform
import shutil

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from msdm_kit.core import kernels
from msdm_kit.core.kernels import cpp, winograd
from msdm_kit.core.kernels.winograd import WinogradConv2d, convolve, doubled, suits, transformed

LAST = torch.channels_last
BF16 = torch.bfloat16
# of the largest value: rounding of fp32 sums; of bf16 maps, weights and their transforms
TOLERANCE = {torch.float32: 3e-6, BF16: 2e-2}
needs_compiler = pytest.mark.skipif(
    not any(shutil.which(command[0]) for command in cpp.compilers()), reason="no C++ compiler"
)


def here(dtype):
    if not winograd.available(dtype):
        pytest.skip(f"no kernel for {dtype} here")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As in a new process with an empty cache."""
    caches = (winograd.library, winograd.multiples, winograd.available, kernels.enabled)
    monkeypatch.setenv("MSDM_KIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(kernels.SWITCH, raising=False)
    for of in caches:
        of.cache_clear()
    yield tmp_path / "cache"
    for of in caches:
        of.cache_clear()


def problem(batch, c, k, height, width, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, c, height, width, generator=g).to(dtype).to(memory_format=LAST)
    weight = (torch.randn(k, c, 3, 3, generator=g) / (9 * c) ** 0.5).to(dtype)
    return x, weight, torch.randn(k, generator=g)


def run(x, weight, bias, up=False):
    return convolve(x, transformed(weight, up=up), bias, len(weight), up=up)


def exact(x, weight, bias, up=False):
    x = doubled(x.double()) if up else x.double()
    return F.conv2d(x, weight.double(), None if bias is None else bias.double(), padding=1)


def conv_of(c, k, dtype=torch.float32, **settings):
    torch.manual_seed(0)
    return nn.Conv2d(c, k, 3, **{"padding": 1, **settings}).to(dtype).to(memory_format=LAST)


def test_one_pixel_sees_the_middle_of_the_kernel():
    here(torch.float32)
    x, weight, bias = problem(2, 32, 48, 1, 1)
    torch.testing.assert_close(run(x, weight, bias)[..., 0, 0], x[..., 0, 0] @ weight[..., 1, 1].T + bias)
    # twice as large, each of its four pixels sees it from another corner
    corners = [weight[:, :, 1 - y : 3 - y, 1 - x_ : 3 - x_].sum((2, 3)) for y in (0, 1) for x_ in (0, 1)]
    found = run(x, weight, None, up=True).flatten(2)
    torch.testing.assert_close(found, torch.stack([x[..., 0, 0] @ w.T for w in corners], dim=-1))


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("at", [(0, 0), (3, 4), (6, 8)])
def test_an_impulse_gives_the_kernel(at, dtype):
    here(dtype)
    x = torch.zeros(1, 32, 7, 9, dtype=dtype).to(memory_format=LAST)
    x[0, 5, at[0], at[1]] = 1
    # powers of two: every step is exact in bf16 too
    weight = torch.zeros(16, 32, 3, 3, dtype=dtype)
    weight[:, 5] = torch.tensor([1.0, 2.0, 4.0]) * torch.tensor([[1.0], [8.0], [64.0]])
    padded = torch.zeros(11, 13)
    y, x_ = at[0] + 1, at[1] + 1
    padded[y : y + 3, x_ : x_ + 3] = weight[0, 5].float().flip(0, 1)
    found = run(x, weight, None).float()
    tolerance = 0 if dtype == torch.float32 else 1.0
    torch.testing.assert_close(found[0], padded[2:-2, 2:-2].expand(16, -1, -1), rtol=0, atol=tolerance)


shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 7), st.integers(1, 18), st.integers(1, 18)
)


@settings(max_examples=40, deadline=None)
@given(shapes, st.sampled_from([torch.float32, BF16]), st.booleans(), st.booleans(), st.integers(0, 9))
def test_the_numbers_are_those_of_fp64(shape, dtype, up, biased, seed):
    here(dtype)
    b, c, k, height, width = shape
    of = winograd.multiples(dtype)
    x, weight, bias = problem(b, c * of[0], k * of[1], height, width, dtype, seed)
    bias = bias if biased else None
    found, expected = run(x, weight, bias, up), exact(x, weight, bias, up)
    assert found.shape == expected.shape
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=LAST)
    error = (found.double() - expected).abs().max()
    assert error <= TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("up", [False, True])
def test_no_more_error_than_rounding_allows(dtype, up):
    """Root mean square, of many channels: of fp32 as oneDNN's; of bf16 see docs/performance.md."""
    here(dtype)
    x, weight, bias = problem(1, 256, 64, 24, 24, dtype)
    expected = exact(x, weight, bias, up)
    plain = F.conv2d(doubled(x) if up else x, weight, bias.to(dtype), padding=1)
    error, theirs = (
        (y.double() - expected).norm() / expected.norm() for y in (run(x, weight, bias, up), plain)
    )
    assert error <= (2 * theirs if dtype == torch.float32 else 3 * theirs)


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("size", [(3, 32, 80, 5, 6), (1, 64, 32, 33, 40), (2, 32, 16, 1, 3)])
def test_threads_and_batch_change_no_bit(size, up, dtype):
    here(dtype)
    x, weight, bias = problem(*size, dtype)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(x, weight, bias, up)
        torch.set_num_threads(2)
        assert torch.equal(run(x, weight, bias, up), alone)
        torch.set_num_threads(5)
        assert torch.equal(run(x, weight, bias, up), alone)
        for i in range(len(x)):
            assert torch.equal(run(x[i : i + 1], weight, bias, up)[0], alone[i])
    finally:
        torch.set_num_threads(threads)


def test_any_memory_format_is_read():
    here(torch.float32)
    x, weight, bias = problem(2, 32, 32, 6, 8)
    expected = run(x, weight, bias)
    cut = torch.cat([x, x], dim=1)[:, 32:]
    for same in (x.contiguous(), cut, x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert torch.equal(run(same, weight.to(memory_format=LAST), bias), expected)


def test_no_sample_no_work():
    here(torch.float32)
    with torch.no_grad():
        assert WinogradConv2d(conv_of(32, 32))(torch.randn(0, 32, 4, 4)).shape == (0, 32, 4, 4)


@pytest.mark.parametrize("size", [(0, 32, 16, 4, 4), (1, 32, 16, 0, 4)])
def test_the_kernel_takes_an_empty_map_on_many_threads(size):
    here(torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert run(*problem(*size)).numel() == 0
    finally:
        torch.set_num_threads(threads)


def test_what_is_not_finite_stays_in_its_tiles():
    here(torch.float32)
    x, weight, bias = problem(2, 32, 32, 8, 8)
    x[0, 3, 0, 0] = float("nan")
    found = run(x, weight, bias)
    assert found[0, :, :2, :2].isnan().all()
    assert found[0, :, 2:, 2:].isfinite().all()
    assert found[1].isfinite().all()


def test_which_layers_it_suits():
    here(torch.float32)
    here(BF16)
    of_input, of_output = winograd.multiples(torch.float32)
    assert suits(conv_of(2 * of_input, 3 * of_output))
    assert suits(conv_of(32, 16, bias=False, dtype=BF16))
    wrong = [
        conv_of(of_input + 1, of_output),
        conv_of(of_input, of_output + 1),
        conv_of(32, 32, stride=2),
        conv_of(32, 32, padding=0),
        conv_of(32, 32, padding="same"),
        conv_of(32, 32, dilation=2, padding=2),
        conv_of(32, 32, groups=2),
        conv_of(32, 32, padding_mode="reflect"),
        conv_of(32, 32).double(),
        nn.Conv2d(32, 32, 1),
    ]
    assert not any(map(suits, wrong))


class Other(nn.Module):
    """Counts what the kernel does not compute."""

    def __init__(self, conv):
        super().__init__()
        self.conv, self.calls = conv, 0

    def forward(self, x):
        self.calls += 1
        return self.conv(x)


def test_with_gradients_it_is_the_plain_layer():
    here(torch.float32)
    conv = conv_of(32, 32)
    other = Other(conv)
    layer = WinogradConv2d(conv, other)
    x = torch.randn(1, 32, 8, 8)
    assert torch.equal(layer(x), conv(x))
    assert torch.equal(layer(x, up=True), conv(doubled(x)))
    layer(x).sum().backward()
    assert conv.weight.grad is not None
    assert other.calls == 3
    with torch.no_grad():
        torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer(x, up=True), conv(doubled(x)), rtol=1e-5, atol=1e-5)
    assert other.calls == 3


def test_few_tiles_of_a_large_layer_are_left_to_the_other(monkeypatch):
    here(torch.float32)
    monkeypatch.setattr(winograd, "MOST_WEIGHTS", 100)
    other = Other(conv_of(32, 32))
    layer = WinogradConv2d(other.conv, other)
    with torch.no_grad():
        layer(torch.randn(1, 32, 6, 6))
        layer(torch.randn(1, 32, 3, 3), up=True)
        assert (other.calls, layer._weights) == (2, {})
        layer(torch.randn(1, 32, 7, 8))
        layer(torch.randn(2, 32, 3, 3), up=True)
        assert (other.calls, set(layer._weights)) == (2, {False, True})


def test_under_autocast_in_the_dtype_of_the_weights():
    here(BF16)
    x = torch.randn(1, 32, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", BF16):
        half, full = Other(conv_of(32, 32, BF16)), Other(conv_of(32, 32))
        found = WinogradConv2d(half.conv, half)(x)
        assert found.dtype == BF16
        torch.testing.assert_close(found, half.conv(x), rtol=0, atol=2e-2)
        # which would be cast at every call: autocast's own way
        assert WinogradConv2d(full.conv, full)(x).dtype == BF16
        assert (half.calls, full.calls) == (0, 1)


def test_switched_off_or_without_a_compiler_nothing_suits(fresh, monkeypatch, caplog):
    monkeypatch.setattr(cpp, "compilers", list)
    with caplog.at_level("INFO", logger="msdm_kit"):
        assert not any(suits(conv_of(32, 32)) for _ in range(3))
    assert [r.getMessage() for r in caplog.records] == [
        "3 x 3 convolutions are oneDNN's on the CPU: no C++ compiler found"
    ]
    monkeypatch.undo()
    kernels.enabled.cache_clear()
    winograd.available.cache_clear()
    monkeypatch.setenv(kernels.SWITCH, "off")
    assert not suits(conv_of(32, 32))
    assert not fresh.exists()


@needs_compiler
def test_a_wrong_result_is_found_before_the_first_use(fresh, monkeypatch, caplog):
    if winograd.multiples(torch.float32) is None:
        pytest.skip("no kernel for fp32 here")
    real = winograd.transformed
    monkeypatch.setattr(winograd, "transformed", lambda weight, *, up: real(weight.flip(2), up=up))
    assert not winograd.available(torch.float32)
    assert "Winograd's convolution is not used" in caplog.text


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of another processor")
@pytest.mark.parametrize(("march", "has"), [("x86-64-v3", True), ("x86-64", False)])
def test_lesser_machines(fresh, monkeypatch, march, has):
    if winograd.multiples(torch.float32) is None:
        pytest.skip("no kernel for fp32 here")
    winograd.library.cache_clear()
    winograd.multiples.cache_clear()
    monkeypatch.setattr(cpp, "FLAGS", ((*cpp.BASE, f"-march={march}"),))
    assert winograd.library() is not None
    assert winograd.available(torch.float32) == has
    assert not winograd.available(BF16)
    if has:
        x, weight, bias = problem(2, 24, 40, 9, 13)
        for up in (False, True):
            torch.testing.assert_close(
                run(x, weight, bias, up).double(), exact(x, weight, bias, up), rtol=0, atol=1e-5
            )
