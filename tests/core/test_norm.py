import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from msdm_kit.core.norm import EPS, SiteNorm, expand_patch, norm_modulate_silu


def by_hand(h, groups, *, silu=True, **terms):
    """The formula in fp64, map by map."""
    b, c = h.shape[:2]
    g = h.double().reshape(b, groups, -1)
    y = (g - g.mean(-1, keepdim=True)) / (g.var(-1, correction=0, keepdim=True) + EPS).sqrt()
    y = y.view(h.shape)
    t = {k: v.double() for k, v in terms.items()}
    y = y * t.get("weight", torch.ones(c)).view(1, c, 1, 1) + t.get("bias", torch.zeros(c)).view(1, c, 1, 1)
    if "gamma_beta" in t:
        gamma, beta = t["gamma_beta"].chunk(2, dim=1)
        y = y * (1 + gamma) + beta
    y = y * (1 + t.get("scale", torch.zeros(())))
    y = y + t.get("shift", torch.zeros(()))
    return y / (1 + torch.exp(-y)) if silu else y


SIZES = {
    "weight": (6,),
    "bias": (6,),
    "gamma_beta": (2, 12, 3, 5),
    "scale": (2, 6, 1, 1),
    "shift": (2, 6, 1, 1),
}


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "which",
    [(), ("weight", "bias"), ("gamma_beta",), ("scale", "shift"), ("weight", "shift"), tuple(SIZES)],
)
def test_the_formula(which, layout, silu):
    h = torch.randn(2, 6, 3, 5).contiguous(memory_format=layout)
    terms = {name: torch.randn(SIZES[name]) for name in which}
    out = norm_modulate_silu(h, 3, silu=silu, **terms)
    torch.testing.assert_close(out.double(), by_hand(h, 3, silu=silu, **terms), rtol=1e-5, atol=1e-6)
    assert out.is_contiguous(memory_format=layout)


def test_a_constant_map_becomes_its_modulation():
    h = torch.full((1, 4, 3, 3), 7.0)
    shift = torch.tensor([0.0, 1.0, -1.0, 20.0]).view(1, 4, 1, 1)
    out = norm_modulate_silu(h, 2, scale=torch.ones(1, 4, 1, 1), shift=shift)
    torch.testing.assert_close(out, F.silu(shift).expand(1, 4, 3, 3))


def test_one_row_of_gamma_beta_serves_the_batch():
    h, row = torch.randn(3, 6, 4, 4), torch.randn(1, 12, 4, 4)
    expected = norm_modulate_silu(h, 3, gamma_beta=row.repeat(3, 1, 1, 1))
    torch.testing.assert_close(norm_modulate_silu(h, 3, gamma_beta=row), expected)


def test_one_time_step_serves_the_batch():
    h, row = torch.randn(3, 6, 4, 4).to(memory_format=torch.channels_last), torch.randn(1, 6, 1, 1)
    expected = by_hand(h, 3, scale=row, shift=row)
    out = norm_modulate_silu(h, 3, scale=row, shift=row)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


def test_film_is_the_patch_of_one_pixel():
    h, vector = torch.randn(2, 6, 4, 5), torch.randn(2, 12, 1, 1)
    terms = {"scale": torch.randn(2, 6, 1, 1), "shift": torch.randn(2, 6, 1, 1)}
    out = norm_modulate_silu(h, 3, gamma_beta=vector, **terms)
    expected = by_hand(h, 3, gamma_beta=vector.expand(-1, -1, 4, 5), **terms)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_patch_by_hand():
    patch = torch.arange(9.0).view(1, 1, 3, 3)
    expected = [[0, 1, 1, 2], [3, 4, 4, 5], [3, 4, 4, 5], [3, 4, 4, 5], [6, 7, 7, 8]]
    assert expand_patch(patch, (5, 4))[0, 0].tolist() == expected


@given(st.integers(6, 12), st.integers(5, 12))
def test_two_convolutions_of_a_constant_map_fill_a_patch_of_five(height, width):
    convs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(3, 4, 3, padding=1)
    )
    constant = torch.randn(1, 2, 1, 1)
    patch = convs(constant.expand(1, 2, 5, 5))
    whole = convs(constant.expand(1, 2, height, width))
    torch.testing.assert_close(expand_patch(patch, (height, width)), whole, rtol=1e-5, atol=1e-6)


@given(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 5, 7]), st.integers(1, 3), st.data())
def test_a_patch_is_the_map_it_stands_for(ph, pw, rows, data):
    height, width = (data.draw(st.just(p) | st.integers(p + 1, 11)) for p in (ph, pw))
    layout = data.draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    h = torch.randn(rows, 6, height, width).contiguous(memory_format=layout)
    patch = torch.randn(data.draw(st.sampled_from([1, rows])), 12, ph, pw)
    out = norm_modulate_silu(h, 3, gamma_beta=patch)
    whole = norm_modulate_silu(h, 3, gamma_beta=expand_patch(patch, (height, width)).contiguous())
    torch.testing.assert_close(out, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 12, 1, 1), (2, 12, 3, 3), (1, 12, 3, 3), (1, 12, 5, 6), (2, 12, 5, 6)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_the_formula(shape, layout):
    h = torch.randn(2, 6, 5, 6).contiguous(memory_format=layout)
    sizes = SIZES | {"gamma_beta": shape}
    values = {"h": h} | {k: torch.randn(size) for k, size in sizes.items()}
    ours = {k: v.clone().requires_grad_() for k, v in values.items()}
    exact = {k: v.double().requires_grad_() for k, v in values.items()}
    dout = torch.randn(2, 6, 5, 6)
    norm_modulate_silu(groups=3, **ours).backward(dout)
    full = exact | {"gamma_beta": expand_patch(exact["gamma_beta"], (5, 6))}
    by_hand(groups=3, **full).backward(dout.double())
    for name, t in ours.items():
        torch.testing.assert_close(t.grad.double(), exact[name].grad, rtol=2e-5, atol=2e-5)
        assert t.grad.shape == t.shape


def test_gradcheck():
    terms = {k: torch.randn(size, dtype=torch.float64, requires_grad=True) for k, size in SIZES.items()}
    h = torch.randn(2, 6, 3, 5, dtype=torch.float64, requires_grad=True)

    def call(h, *values):
        return norm_modulate_silu(h, 3, **dict(zip(SIZES, values, strict=True)))

    assert torch.autograd.gradcheck(call, (h, *terms.values()))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_leaves_the_dtype_of_the_map(dtype, training):
    h = torch.randn(2, 6, 4, 4, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.ones(6, requires_grad=training)
    gamma_beta = torch.randn(2, 12, 4, 4, dtype=torch.bfloat16)
    scale = torch.randn(2, 6, 1, 1, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = norm_modulate_silu(h, 3, weight=weight, gamma_beta=gamma_beta, scale=scale)
    assert out.dtype == dtype
    exact = by_hand(h, 3, weight=weight.detach(), gamma_beta=gamma_beta, scale=scale)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(out.detach().double(), exact, rtol=tolerance, atol=tolerance)


def test_bf16_is_no_less_exact_than_the_chain_in_torch():
    torch.manual_seed(0)
    values = {
        k: torch.randn(s, dtype=torch.bfloat16) for k, s in SIZES.items() if k not in ("weight", "bias")
    }
    h = torch.randn(2, 6, 3, 5, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    gamma, beta = values["gamma_beta"].chunk(2, dim=1)
    chain = F.silu((F.group_norm(h, 3) * (1 + gamma) + beta) * (1 + values["scale"]) + values["shift"])
    exact = by_hand(h, 3, **values)
    error = (norm_modulate_silu(h, 3, **values) - exact).abs()
    assert error.mean() < (chain - exact).abs().mean()
    # nothing but the rounding of the result
    assert (error <= exact.abs() * 2**-8 + 1e-6).all()


def test_what_is_kept_for_backward():
    kept = []
    h = (
        torch.randn(2, 32, 16, 16, dtype=torch.bfloat16)
        .to(memory_format=torch.channels_last)
        .requires_grad_()
    )
    gamma_beta = torch.randn(2, 64, 16, 16, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        norm_modulate_silu(h, 8, gamma_beta=gamma_beta)
    own = h.nbytes + gamma_beta.nbytes
    assert own <= sum(t.nbytes for t in kept) <= own + 2 * 2 * 8 * 4


@pytest.mark.parametrize("shape", [(2, 12, 4, 5), (2, 12, 2, 2), (3, 12, 5, 5), (2, 6, 5, 5), (2, 12, 7, 5)])
def test_a_map_that_does_not_fit(shape):
    with pytest.raises(ValueError, match="does not fit"):
        norm_modulate_silu(torch.randn(2, 6, 5, 5), 3, gamma_beta=torch.randn(shape))


def test_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="4 groups do not divide 6 channels"):
        norm_modulate_silu(torch.randn(2, 6, 5, 5), 4)


def test_site_norm_starts_without_affine_and_keeps_the_layout():
    h = torch.randn(2, 6, 4, 4).to(memory_format=torch.channels_last)
    layer = SiteNorm(6, 3)
    out = layer(h)
    torch.testing.assert_close(out, norm_modulate_silu(h, 3))
    assert out.is_contiguous(memory_format=torch.channels_last)
