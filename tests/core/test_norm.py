import pytest
import torch

from msdm_kit.core.norm import EPS, SiteNorm, norm_modulate_silu


def by_hand(h, groups, **terms):
    b, c = h.shape[:2]
    g = h.double().view(b, groups, -1)
    y = ((g - g.mean(-1, keepdim=True)) / (g.var(-1, correction=0, keepdim=True) + EPS).sqrt()).view(h.shape)
    t = {k: v.double() for k, v in terms.items()}
    if "weight" in t:
        y = y * t["weight"].view(1, c, 1, 1) + t["bias"].view(1, c, 1, 1)
    if "gamma" in t:
        y = y * (1 + t["gamma"]) + t["beta"]
    if "scale" in t:
        y = y * (1 + t["scale"]) + t["shift"]
    return y / (1 + torch.exp(-y))


@pytest.mark.parametrize("shape", [(2, 6, 3, 5), (1, 6, 1, 1)])
@pytest.mark.parametrize("which", [(), ("weight", "bias"), ("gamma", "beta"), ("scale", "shift")])
def test_the_formula(which, shape):
    h = torch.randn(2, 6, 3, 5)
    sizes = {"weight": (6,), "bias": (6,), "gamma": shape, "beta": shape, "scale": (2, 6, 1, 1)}
    terms = {name: torch.randn(sizes.get(name, (2, 6, 1, 1))) for name in which}
    out = norm_modulate_silu(h, 3, **terms)
    torch.testing.assert_close(out.double(), by_hand(h, 3, **terms), rtol=1e-5, atol=1e-5)


def test_everything_at_once():
    h, weight, bias = torch.randn(2, 6, 3, 5), torch.randn(6), torch.randn(6)
    maps = {k: torch.randn(2, 6, 3, 5) for k in ("gamma", "beta")}
    time = {k: torch.randn(2, 6, 1, 1) for k in ("scale", "shift")}
    terms = {"weight": weight, "bias": bias, **maps, **time}
    torch.testing.assert_close(
        norm_modulate_silu(h, 2, **terms).double(), by_hand(h, 2, **terms), rtol=1e-5, atol=1e-5
    )


def test_site_norm_starts_without_affine_and_keeps_the_layout():
    h = torch.randn(2, 6, 4, 4).to(memory_format=torch.channels_last)
    layer = SiteNorm(6, 3)
    out = layer(h)
    torch.testing.assert_close(out, norm_modulate_silu(h, 3))
    assert out.is_contiguous(memory_format=torch.channels_last)
