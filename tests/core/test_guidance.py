import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msdm_kit.core.guidance import Branch, combine, plan

NAMES = ["a", "b", "c"]
SCALES = st.floats(-5, 20, allow_nan=False)


def outputs(branches, channels=3):
    """One output for each set of present conditions, the same whenever it is asked for."""
    every = {}
    for k in range(len(NAMES) + 1):
        g = torch.Generator().manual_seed(k)
        every[frozenset(NAMES[:k])] = torch.randn(2, channels, 2, 2, generator=g, dtype=torch.float64)
    return [every[b.present] for b in branches], every


def nested(every, scales):
    """Brooks et al. 2023, equation 3, for any number of conditions."""
    out = every[frozenset()]
    for k, scale in enumerate(scales):
        out = out + scale * (every[frozenset(NAMES[: k + 1])] - every[frozenset(NAMES[:k])])
    return out


@given(st.one_of(SCALES, st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, SCALES))))
def test_weights_add_up_to_1_and_give_the_formula(guidance):
    branches = plan(guidance, NAMES)
    assert sum(b.weight for b in branches) == pytest.approx(1, abs=1e-9)
    assert all(b.weight for b in branches)
    assert len({b.present for b in branches}) == len(branches)
    scales = [guidance.get(n, 1.0) if isinstance(guidance, dict) else guidance for n in NAMES]
    given_out, every = outputs(branches)
    torch.testing.assert_close(
        combine(branches, given_out, "fixed_small"), nested(every, scales), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("guidance", [1, 1.0, {}, {"b": 1.0}, dict.fromkeys(NAMES, 1.0)])
def test_scale_1_is_one_evaluation(guidance):
    branches = plan(guidance, NAMES)
    assert branches == [Branch(frozenset(NAMES), 1.0)]
    (out,), _ = outputs(branches)
    assert combine(branches, [out], "fixed_small") is out


@pytest.mark.parametrize("guidance", [1.5, dict.fromkeys(NAMES, 1.5)])
def test_equal_scales_are_two_evaluations(guidance):
    assert plan(guidance, NAMES) == [Branch(frozenset(), -0.5), Branch(frozenset(NAMES), 1.5)]


def test_one_scale_per_condition():
    assert plan({"a": 1.0, "b": 2.0, "c": 4.0}, NAMES) == [
        Branch(frozenset("a"), -1.0),
        Branch(frozenset("ab"), -2.0),
        Branch(frozenset("abc"), 4.0),
    ]


def test_scale_0_is_the_unconditioned_network():
    branches = plan(0.0, NAMES)
    assert branches == [Branch(frozenset(), 1.0)]
    (out,), _ = outputs(branches)
    assert combine(branches, [out], "fixed_small") is out


def test_a_learned_variance_takes_the_conditioned_network_even_at_scale_0():
    branches = plan(0.0, NAMES, "learned_range")
    assert branches == [Branch(frozenset(), 1.0), Branch(frozenset(NAMES), 0.0)]
    given_out, every = outputs(branches, channels=6)
    out = combine(branches, given_out, "learned_range")
    assert torch.equal(out[:, :3], every[frozenset()][:, :3])
    assert torch.equal(out[:, 3:], every[frozenset(NAMES)][:, 3:])


def test_no_conditions():
    assert plan(7.0, []) == [Branch(frozenset(), 1.0)]


def test_a_learned_variance_stays_the_conditioned_one():
    branches = plan({"a": 3.0, "c": 2.0}, NAMES)
    given_out, every = outputs(branches, channels=6)
    out = combine(branches, given_out, "learned_range")
    torch.testing.assert_close(out[:, :3], nested({k: v[:, :3] for k, v in every.items()}, [3.0, 1.0, 2.0]))
    assert torch.equal(out[:, 3:], every[frozenset(NAMES)][:, 3:])
