import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msdm_kit.core.attention import CrossAttention, attention_reference, fold_pays, trim
from msdm_kit.core.kernels.cross_attention_op import short_cross_attention


def layer_of(channels, width, heads, *, seed=0, dtype=torch.float64, implementation="fused"):
    """A layer with weights that keep variances, and a bias."""
    g = torch.Generator().manual_seed(seed)
    layer = CrossAttention(channels, width, heads)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * p.shape[-1] ** -0.5)
    layer.implementation = implementation
    return layer.to(dtype)


def draw(*shape, seed=1, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_hand(layer, h, tokens, mask=None):
    """h + the paper's equations 1 and 2, row by row and head by head, in fp64."""
    q, k, v, o = (p.weight.double() for p in (layer.q, layer.k, layer.v, layer.out))
    d = len(q) // layer.heads
    rows = []
    for i, x in enumerate(h.double()):
        j = i if len(tokens) > 1 else 0
        t = tokens[j].double() if mask is None else tokens[j].double()[mask[j if len(mask) > 1 else 0]]
        pixels = x.flatten(1).T
        heads = [
            ((pixels @ q[s].T) @ (t @ k[s].T).T / d**0.5).softmax(-1) @ (t @ v[s].T)
            for s in (slice(n * d, (n + 1) * d) for n in range(layer.heads))
        ]
        rows.append(x + (torch.cat(heads, 1) @ o.T + layer.out.bias.double()).T.view_as(x))
    return torch.stack(rows)


def ragged(batch, tokens, seed):
    """Masks with at least one token in every row, in no order."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, tokens, generator=g) < 0.5
    mask[torch.arange(batch), torch.randint(tokens, (batch,), generator=g)] = True
    return mask


def added(layer, h, state):
    return layer(h, state) - h


class TestKnownAnswers:
    @pytest.mark.parametrize("gradients", [False, True])
    def test_one_token_is_its_value_whatever_is_asked(self, gradients):
        layer, token = layer_of(12, 5, 3), draw(2, 1, 5)
        expected = layer.out(layer.v(token))[:, 0, :, None, None]
        with torch.set_grad_enabled(gradients):
            for seed in (1, 2):
                h = 100 * draw(2, 12, 4, 3, seed=seed)
                out = added(layer, h, layer.prepare(token))
                torch.testing.assert_close(out, expected.expand_as(out), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("logit", [0.0, 1.5, -80.0, 800.0])
    @pytest.mark.parametrize("gradients", [False, True])
    def test_two_tokens_of_known_logits(self, gradients, logit):
        # queries are h itself, keys (logit, 0) sqrt(d) times the first channel, values the tokens themselves
        layer = CrossAttention(2, 2, 1).double()
        with torch.no_grad():
            layer.q.weight.copy_(torch.eye(2))
            layer.k.weight.copy_(torch.tensor([[2**0.5 * logit, 0.0], [0.0, 0.0]]))
            layer.v.weight.copy_(torch.eye(2))
            layer.out.weight.copy_(torch.eye(2))
            layer.out.bias.copy_(torch.tensor([3.0, 4.0]))
        h = torch.tensor([1.0, 7.0]).double().view(1, 2, 1, 1).expand(1, 2, 4, 4)
        tokens = torch.tensor([[[1.0, 5.0], [0.0, -6.0]]]).double()
        p = torch.sigmoid(torch.tensor(logit).double())
        expected = torch.stack([3 + p, 4 + 5 * p - 6 * (1 - p)])
        with torch.set_grad_enabled(gradients):
            out = added(layer, h, layer.prepare(tokens))
            folded = short_cross_attention(
                h, *layer.fold(*layer.keys_values(tokens)), layer.out.bias, None, 1
            )
        torch.testing.assert_close(out[0], expected[:, None, None].expand(2, 4, 4))
        torch.testing.assert_close(folded - h, out)

    @pytest.mark.parametrize("gradients", [False, True])
    def test_equal_tokens_are_one(self, gradients):
        layer, token, h = layer_of(12, 5, 3), draw(1, 1, 5), draw(1, 12, 4, 4)
        with torch.set_grad_enabled(gradients):
            one, four = (layer(h, layer.prepare(token.expand(1, n, 5))) for n in (1, 4))
        torch.testing.assert_close(one, four)


class TestFolding:
    @settings(max_examples=60, deadline=None)
    @given(
        batch=st.integers(1, 3),
        heads=st.integers(1, 4),
        width=st.integers(1, 5),
        tokens=st.integers(1, 20),
        side=st.tuples(st.integers(1, 4), st.integers(1, 4)),
        masked=st.booleans(),
        single=st.booleans(),
        seed=st.integers(0, 99),
    )
    def test_every_way_is_the_equations(self, batch, heads, width, tokens, side, masked, single, seed):
        rows = 1 if single else batch
        layer = layer_of(heads * width, 6, heads, seed=seed)
        oracle = copy.deepcopy(layer)
        oracle.implementation = "reference"
        h, text = draw(batch, heads * width, *side, seed=seed), draw(rows, tokens, 6, seed=seed + 1)
        mask = ragged(rows, tokens, seed) if masked else None
        exact = by_hand(layer, h, text, mask)
        a, b = layer.fold(*layer.keys_values(text))
        assert (a.shape, b.shape) == (
            (rows, heads * width, heads * tokens),
            (rows, heads * tokens, heads * width),
        )
        close = {"rtol": 1e-10, "atol": 1e-10}
        torch.testing.assert_close(
            short_cross_attention(h, a, b, layer.out.bias, mask, heads), exact, **close
        )
        torch.testing.assert_close(oracle(h, oracle.prepare(text, mask)), exact, **close)
        torch.testing.assert_close(layer(h, layer.prepare(text, mask)), exact, **close)
        with torch.no_grad():
            state = layer.prepare(text, mask)
            torch.testing.assert_close(layer(h, state), exact, **close)
        assert all(len(v) == rows for v in state.values())

    def test_columns_are_heads_then_tokens(self):
        layer, text = layer_of(6, 4, 2), draw(1, 3, 4)
        k, v = layer.keys_values(text)
        a, b = layer.fold(k, v)
        for n in range(2):
            for s in range(3):
                of_head = slice(3 * n, 3 * n + 3)
                torch.testing.assert_close(
                    a[0, :, 3 * n + s], layer.q.weight[of_head].T @ k[0, n, s] / 3**0.5
                )
                torch.testing.assert_close(b[0, 3 * n + s], layer.out.weight[:, of_head] @ v[0, n, s])

    @pytest.mark.parametrize("tokens", [1, 8, 77])
    def test_fp32_error(self, tokens):
        layer = layer_of(256, 64, 4, dtype=torch.float32)
        h, text = draw(1, 256, 8, 8, dtype=torch.float32), draw(1, tokens, 64, dtype=torch.float32)
        exact = by_hand(layer, h, text)
        out = short_cross_attention(h, *layer.fold(*layer.keys_values(text)), layer.out.bias, None, 4)
        assert (out - exact).norm() < 5e-7 * (exact - h).norm()

    @pytest.mark.parametrize("tokens", [2, 8, 16])
    def test_bf16_error_is_not_above_that_of_the_projections(self, tokens, monkeypatch):
        layer = layer_of(256, 64, 4, dtype=torch.float32)
        h, text = draw(1, 256, 8, 8, dtype=torch.bfloat16).float(), draw(1, tokens, 64, dtype=torch.float32)
        exact = by_hand(layer, h, text)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            k, v = layer.keys_values(text)
            states = {"kept": {"k": k.bfloat16(), "v": v.bfloat16()}, "folded": layer.prepare(text)}
            monkeypatch.setattr("msdm_kit.core.attention.fold_pays", lambda *_: False)
            errors = {name: (layer(h, state) - exact).norm().item() for name, state in states.items()}
        assert states["folded"]["a"].dtype == torch.bfloat16
        assert errors["folded"] < errors["kept"]

    def test_softmax_of_scores_beyond_the_range_of_exp(self):
        layer = layer_of(16, 6, 2, dtype=torch.float32)
        h, text = 1e3 * draw(1, 16, 3, 3, dtype=torch.float32), draw(1, 4, 6, dtype=torch.float32)
        with torch.no_grad():
            out = layer(h, layer.prepare(text))
        torch.testing.assert_close(out, by_hand(layer, h, text).float(), rtol=1e-5, atol=1e-2)


class TestCostRule:
    def test_counts(self):
        """The rule against the operations that it stands for."""
        for channels, heads in ((64, 2), (1024, 8), (48, 3)):
            for tokens in range(1, channels + 1):
                for pixels in (1, 16, 64, 4096):
                    kept = 2 * pixels * channels * (channels + tokens)
                    once = 2 * tokens * channels**2
                    folded = 2 * pixels * channels * heads * tokens
                    if fold_pays(channels, heads, tokens):
                        assert folded < kept
                    if fold_pays(channels, heads, tokens, pixels):
                        assert fold_pays(channels, heads, tokens)
                        assert folded + once < kept

    @pytest.mark.parametrize(("tokens", "folds"), [(1, True), (7, True), (8, False), (9, False)])
    def test_boundary_over_many_evaluations(self, tokens, folds):
        layer = layer_of(16, 6, 2)  # 2 heads: 16 / 2 = 8 tokens
        with torch.no_grad():
            state = layer.prepare(draw(1, tokens, 6))
        assert ({"a", "b"} if folds else {"k", "v"}) == set(state)

    # 2 heads + 2 * 16 channels / 16 pixels = 4 for each token, of 16
    @pytest.mark.parametrize(("tokens", "folds"), [(1, True), (3, True), (4, False), (7, False)])
    def test_boundary_within_one_evaluation(self, tokens, folds, monkeypatch):
        layer, calls = layer_of(16, 6, 2), []
        fold = layer.fold
        monkeypatch.setattr(layer, "fold", lambda *kv: calls.append(1) or fold(*kv))
        state = layer.prepare(draw(1, tokens, 6))
        assert set(state) == {"k", "v"}
        layer(draw(1, 16, 4, 4), state)
        assert bool(calls) == folds

    def test_the_reference_never_folds(self, monkeypatch):
        layer = layer_of(16, 6, 2, implementation="reference")
        monkeypatch.setattr(layer, "fold", None)
        text, mask, h = draw(1, 3, 6), torch.tensor([[True, True, False]]), draw(1, 16, 8, 8)
        with torch.no_grad():
            state = layer.prepare(text, mask)
            assert set(state) == {"k", "v", "mask"}
            assert state["k"].shape == (1, 2, 3, 8)
            q = layer._split(layer.q(h.flatten(2).mT))
            out = attention_reference(q, state["k"], state["v"], mask).transpose(1, 2).flatten(2)
            torch.testing.assert_close(layer(h, state), h + layer.out(out).mT.view_as(h))


class TestTrimming:
    def test_tokens_that_count_in_no_row(self):
        tokens = torch.arange(12.0).view(2, 6, 1)
        mask = torch.tensor([[1, 0, 0, 1, 0, 0], [1, 0, 1, 0, 0, 0]]).bool()
        kept, left = trim(tokens, mask)
        assert kept[0, :, 0].tolist() == [0, 2, 3]
        assert left.tolist() == [[True, False, True], [True, True, False]]

    def test_no_mask_where_all_that_is_left_counts(self):
        kept, left = trim(torch.zeros(2, 5, 3), torch.tensor([[True, False, True, False, False]] * 2))
        assert kept.shape == (2, 2, 3)
        assert left is None

    def test_an_absent_condition_is_one_token(self):
        layer, mask = layer_of(16, 6, 2), torch.arange(6).expand(3, 6) == 0
        with torch.no_grad():
            state = layer.prepare(draw(3, 6, 6), mask)
        assert {k: tuple(v.shape) for k, v in state.items()} == {"a": (3, 16, 2), "b": (3, 2, 16)}

    def test_padding_decides_whether_folding_pays(self):
        layer, mask = layer_of(16, 6, 2), torch.arange(40).expand(1, 40) < 7
        with torch.no_grad():
            assert set(layer.prepare(draw(1, 40, 6), mask)) == {"a", "b"}
            assert set(layer.prepare(draw(1, 40, 6))) == {"k", "v"}

    def test_no_shape_depends_on_the_mask_where_gradients_are_needed(self):
        layer, mask = layer_of(16, 6, 2), torch.arange(6).expand(3, 6) == 0
        state = layer.prepare(draw(3, 6, 6), mask)
        assert state["k"].shape == state["v"].shape == (3, 2, 6, 8)
        meta = copy.deepcopy(layer).to("meta")
        tokens, h = torch.empty(3, 6, 6, device="meta"), torch.empty(3, 16, 8, 8, device="meta")
        assert meta(h, meta.prepare(tokens, mask.to("meta"))).shape == h.shape


class TestGradients:
    @pytest.mark.parametrize("masked", [False, True])
    def test_folded_against_finite_differences(self, masked):
        layer, h, text = layer_of(6, 4, 2), draw(2, 6, 2, 3), draw(2, 3, 4)
        mask = torch.tensor([[True, False, True], [True, True, False]]) if masked else None
        weights = list(layer.parameters())

        def run(h, text, *_):
            return short_cross_attention(h, *layer.fold(*layer.keys_values(text)), layer.out.bias, mask, 2)

        assert torch.autograd.gradcheck(run, (h.requires_grad_(), text.requires_grad_(), *weights))

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("tokens", [3, 5, 20])  # folded, folded and long, kept
    def test_are_those_of_the_reference(self, tokens, masked):
        mask = ragged(2, tokens, 0) if masked else None
        grads = []
        for implementation in ("fused", "reference"):
            layer = layer_of(16, 6, 2, implementation=implementation)
            h, text = draw(2, 16, 8, 8).requires_grad_(), draw(2, tokens, 6).requires_grad_()
            layer(h, layer.prepare(text, mask)).pow(3).sum().backward()
            grads.append([h.grad, text.grad, *(p.grad for p in layer.parameters())])
        for ours, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)

    def test_reach_everything_but_padding(self):
        layer, h = layer_of(16, 6, 2), draw(2, 16, 8, 8).requires_grad_()
        text, mask = draw(2, 4, 6).requires_grad_(), torch.tensor([[True] * 4, [True] + [False] * 3])
        layer(h, layer.prepare(text, mask)).square().sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in layer.parameters())
        assert (text.grad[mask].abs().sum(-1) > 0).all()
        assert not text.grad[~mask].any()

    def test_under_autocast(self):
        grads = []
        for enabled in (False, True):
            layer = layer_of(64, 6, 2, dtype=torch.float32)
            h, text = draw(2, 64, 8, 8, dtype=torch.float32), draw(2, 5, 6, dtype=torch.float32)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                layer(h, layer.prepare(text.requires_grad_())).square().mean().backward()
            grads.append([text.grad, *(p.grad for p in layer.parameters())])
        for exact, ours in zip(*grads, strict=True):
            assert ours.dtype == torch.float32
            assert (ours - exact).norm() < 2e-2 * exact.norm()


@pytest.mark.parametrize("tokens", [3, 20])
@pytest.mark.parametrize("autocast", [False, True])
def test_dtype_and_layout(autocast, tokens):
    layer, text = layer_of(16, 6, 2, dtype=torch.float32), draw(2, tokens, 6, dtype=torch.float32)
    dtype = torch.bfloat16 if autocast else torch.float32
    h = draw(2, 16, 4, 6, dtype=dtype)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        state = layer.prepare(text)
        out = layer(h.to(memory_format=torch.channels_last), state)
        assert {v.dtype for v in state.values()} == {dtype}
        assert out.dtype == dtype
        assert out.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(layer(h, state), out, rtol=1e-2 if autocast else 1e-5, atol=1e-5)


def test_heads_must_divide():
    with pytest.raises(ValueError, match="3 does not divide 8"):
        CrossAttention(8, 4, 3)
