"""What every registered injector and backbone owes the engine, whoever wrote it."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msdm_kit.core.backbone import Backbone
from msdm_kit.core.conditioning import Signal, Spec
from msdm_kit.core.injection import Injector, Site
from msdm_kit.plugins.host import get_host

from ..toy import SIDE, config, randomise, same

HOST = get_host()
INJECTORS, BACKBONES = HOST.names("injector"), HOST.names("backbone")
SITES = [
    Site("n", "decoder", "norm", 8, 2, 4),
    Site("n1", "encoder", "norm", 8, 1, 2),
    Site("r", "bottleneck", "residual", 8, 4, 4),
    Site("e", "embedding", "embedding", 12),
    Site("i", "input", "input", 8),
]
PAIRS = [
    (name, kind, site.name)
    for name in INJECTORS
    for kind in sorted(HOST.load("injector", name).accepts)
    for site in SITES
    if site.kind in HOST.load("injector", name).site_kinds
]


@pytest.mark.parametrize(("name", "kind", "at"), PAIRS)
class TestInjector:
    @pytest.fixture
    def site(self, at: str) -> Site:
        return next(s for s in SITES if s.name == at)

    @pytest.fixture
    def injector(self, name: str, kind: Any, site: Site) -> Injector:
        cls = HOST.load("injector", name)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            built = cls(config(cls, name), Spec(kind, 6), site)
        randomise(built)
        return built.eval()

    @staticmethod
    def given(kind: str, site: Site, batch: int = 2) -> tuple[Signal, Tensor, tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(1)

        def draw_(*shape: int) -> Tensor:
            return torch.randn(shape, generator=g)

        data = {"map": (6, SIDE, SIDE), "tokens": (3, 6), "vector": (6,)}[kind]
        mask = torch.tensor([[True, True, False]] * batch) if kind == "tokens" else None
        side = (SIDE // site.stride,) * 2
        h = draw_(batch, site.channels, *(() if site.kind == "embedding" else side))
        time = (draw_(batch, site.channels, 1, 1), draw_(batch, site.channels, 1, 1))
        return Signal(draw_(batch, *data), mask), h, time if site.kind == "norm" else ()

    def test_shape_and_state(self, injector, kind, site):
        signal, h, time = self.given(kind, site)
        before = h.clone()
        state = injector.prepare(signal)
        out = injector.inject(h, state, *time)
        assert out.shape == h.shape
        assert out.isfinite().all()
        assert torch.equal(h, before)
        assert all(isinstance(v, Tensor) and len(v) == 2 for v in state.values())
        assert torch.equal(injector.inject(h, injector.prepare(signal), *time), out)

    def test_without_time(self, injector, kind, site):
        signal, h, _ = self.given(kind, site)
        assert injector.inject(h, injector.prepare(signal)).shape == h.shape

    def test_the_condition_and_h_matter(self, injector, kind, site):
        signal, h, time = self.given(kind, site)
        out = injector.inject(h, injector.prepare(signal), *time)
        other = Signal(signal.data.flip(0), signal.mask)
        assert not torch.allclose(injector.inject(h, injector.prepare(other), *time), out)
        assert not torch.allclose(injector.inject(h.flip(0), injector.prepare(signal), *time), out)

    def test_time_scales_and_shifts_at_a_norm(self, injector, kind, site):
        if site.kind != "norm":
            return
        signal, h, (scale, shift) = self.given(kind, site)
        state = injector.prepare(signal)
        zero = torch.zeros_like(scale)
        plain = injector.inject(h, state)
        torch.testing.assert_close(injector.inject(h, state, zero, zero), plain)
        assert not torch.allclose(injector.inject(h, state, scale, shift), plain)
        # SiLU comes last: where scale is -1 nothing but the shift is left
        left = injector.inject(h, state, zero - 1, shift)
        torch.testing.assert_close(left, nn.functional.silu(shift).expand_as(left), rtol=1e-4, atol=1e-5)

    def test_rows_do_not_touch_each_other(self, injector, kind, site):
        signal, h, time = self.given(kind, site)
        out = injector.inject(h, injector.prepare(signal), *time)
        for i in range(2):
            r = slice(i, i + 1)
            part = Signal(signal.data[r], None if signal.mask is None else signal.mask[r])
            alone = injector.inject(h[r], injector.prepare(part), *(t[r] for t in time))
            torch.testing.assert_close(alone, out[r], rtol=1e-4, atol=1e-5)

    def test_one_row_stands_for_all(self, injector, kind, site):
        signal, h, time = self.given(kind, site)
        one = Signal(signal.data[:1], None if signal.mask is None else signal.mask[:1])
        full = Signal(one.data.expand_as(signal.data), signal.mask)
        a, b = (injector.inject(h, injector.prepare(s), *time) for s in (one, full))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    def test_padding_does_not_matter(self, injector, kind, site):
        signal, h, time = self.given(kind, site)
        if signal.mask is None:
            return
        out = injector.inject(h, injector.prepare(signal), *time)
        data = signal.data.masked_fill(~signal.mask[..., None], 1e3)
        torch.testing.assert_close(
            injector.inject(h, injector.prepare(Signal(data, signal.mask)), *time), out, rtol=1e-4, atol=1e-5
        )

    def test_gradients(self, injector, kind, site):
        signal, h, time = self.given(kind, site)
        signal.data.requires_grad_()
        h.requires_grad_()
        injector.inject(h, injector.prepare(signal), *time).square().sum().backward()
        parameters = dict(injector.named_parameters())
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters.values())
        assert signal.data.grad.abs().sum() > 0
        assert h.grad.abs().sum() > 0

    def test_bf16_and_layout(self, injector, kind, site):
        signal, h, time = self.given(kind, site)
        exact = injector.inject(h, injector.prepare(signal), *time)
        if h.ndim == 4:
            h = h.to(memory_format=torch.channels_last)
            torch.testing.assert_close(
                injector.inject(h, injector.prepare(signal), *time), exact, rtol=1e-4, atol=1e-5
            )
        with torch.autocast("cpu", torch.bfloat16):
            out = injector.inject(h, injector.prepare(signal), *time)
        scale = exact.abs().max()
        torch.testing.assert_close(out.float() / scale, exact / scale, rtol=0, atol=0.05)

    def test_saved_moved_copied(self, injector, name, kind, site):
        signal, h, time = self.given(kind, site)
        twin = type(injector)(injector.config, injector.spec, injector.site).eval()
        twin.load_state_dict(pickle.loads(pickle.dumps(injector.state_dict())))
        out = injector.inject(h, injector.prepare(signal), *time)
        for other in (twin, copy.deepcopy(injector).to("cpu")):
            assert torch.equal(other.inject(h, other.prepare(signal), *time), out)


def plain(site: str, h: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """What stands where no injector does."""
    return h


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("channels", [3, 6])
class TestBackbone:
    @pytest.fixture
    def backbone(self, name: str, channels: int) -> Backbone:
        cls = HOST.load("backbone", name)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            built = cls(config(cls, name), channels)
        randomise(built)
        return built.eval()

    @staticmethod
    def run(backbone: Backbone, x: Tensor, t: Tensor, inject: Any = plain) -> Tensor:
        return backbone.decode(backbone.encode(x, t, inject), inject)

    @staticmethod
    def given(backbone: Backbone, batch: int = 2) -> tuple[Tensor, Tensor]:
        side = 4 * backbone.multiple
        g = torch.Generator().manual_seed(1)
        return torch.randn(batch, 3, side, 2 * side, generator=g), torch.tensor([3, 900])[:batch]

    def test_shapes(self, backbone, channels):
        x, t = self.given(backbone)
        out = self.run(backbone, x, t)
        assert out.shape == (2, channels, *x.shape[2:])
        assert torch.equal(self.run(backbone, x, t), out)
        assert not torch.allclose(self.run(backbone, x, t.flip(0)), out)

    def test_every_site_is_asked_once_with_what_it_declares(self, backbone, channels):
        by, asked = {s.name: s for s in backbone.sites}, []
        assert len(by) == len(backbone.sites)
        x, t = self.given(backbone)
        backbone.release([s.name for s in backbone.sites if s.kind == "norm"])

        def inject(site, h, scale=None, shift=None):
            asked.append(site)
            s = by[site]
            side = () if s.kind == "embedding" else (x.shape[2] // s.stride, x.shape[3] // s.stride)
            assert h.shape == (2, s.channels, *side)
            assert s.channels % s.groups == 0 or s.kind != "norm"
            return h

        features = backbone.encode(x, t, inject)
        assert all(by[s].sees_encoder for s in asked)
        done = len(asked)
        backbone.decode(features, inject)
        assert not any(by[s].sees_encoder for s in asked[done:])
        assert sorted(asked) == sorted(by)

    def test_released_norms_are_gone(self, backbone, channels):
        before = sum(p.numel() for p in backbone.parameters())
        norms = [s for s in backbone.sites if s.kind == "norm"]
        backbone.release(s.name for s in norms)
        assert before - sum(p.numel() for p in backbone.parameters()) == 2 * sum(s.channels for s in norms)

    def test_features_serve_several_branches(self, backbone, channels):
        x, t = self.given(backbone)
        features = backbone.encode(x, t, plain)
        assert torch.equal(backbone.decode(features, plain), backbone.decode(features, plain))

    def test_rows_do_not_touch_each_other(self, backbone, channels):
        x, t = self.given(backbone)
        out = self.run(backbone, x, t)
        for i in range(2):
            alone = self.run(backbone, x[[i]], t[[i]])
            torch.testing.assert_close(alone[0], out[i], rtol=1e-4, atol=1e-5)

    def test_gradients_and_checkpointing(self, backbone, channels):
        x, t = self.given(backbone)
        gradients = []
        for on in (False, True):
            backbone.checkpointing = on
            backbone.zero_grad(set_to_none=True)
            self.run(backbone, x, t).square().mean().backward()
            gradients.append({n: p.grad for n, p in backbone.named_parameters()})
        assert all(g is not None and g.abs().sum() > 0 for g in gradients[0].values())
        assert same(*gradients)

    def test_bf16_saved_moved_copied(self, backbone, channels):
        x, t = self.given(backbone)
        out = self.run(backbone, x, t)
        twin = type(backbone)(backbone.config, channels).eval()
        twin.load_state_dict(backbone.state_dict())
        assert torch.equal(self.run(twin.to("cpu"), x, t), out)
        assert torch.equal(self.run(copy.deepcopy(backbone), x, t), out)
        with torch.autocast("cpu", torch.bfloat16):
            rough = self.run(backbone, x, t).float()
        torch.testing.assert_close(rough / out.abs().max(), out / out.abs().max(), rtol=0, atol=0.1)
