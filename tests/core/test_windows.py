import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.windows import Grid, axis_weights, check_overlap, starts


@st.composite
def axes(draw):
    window = draw(st.integers(1, 40))
    return draw(st.integers(1, 200)), window, draw(st.integers(0, window - 1))


@settings(deadline=None)
@given(axes())
def test_windows_cover_the_axis_and_overlap(axis):
    length, window, overlap = axis
    begin = starts(length, window, overlap)
    assert begin[0] == 0
    assert begin[-1] + min(window, length) == length
    assert all(0 < b - a <= window - overlap for a, b in zip(begin, begin[1:], strict=False))


@settings(deadline=None)
@given(axes())
def test_weights_of_an_axis_add_up_to_exactly_1(axis):
    length, window, _ = axis
    weights, side = axis_weights(*axis), min(window, length)
    total, count = np.zeros(length, np.float32), np.zeros(length, int)
    for start, row in zip(starts(*axis), weights, strict=True):
        total[start : start + side] += row
        count[start : start + side] += 1
    assert (total == 1).all()
    assert (weights >= 0).all()
    for start, row in zip(starts(*axis), weights, strict=True):
        assert (row[count[start : start + side] == 1] == 1).all()


@settings(deadline=None, max_examples=30)
@given(axes(), axes(), st.randoms())
def test_weights_of_a_field_add_up_to_exactly_1_in_any_order(down, across, random):
    window, overlap = down[1:]
    grid = Grid((down[0], across[0]), window, overlap)
    total = torch.zeros(grid.size)
    order = list(range(len(grid.windows)))
    random.shuffle(order)
    for k in order:
        total[grid.windows[k].at] += grid.weights(k)
    assert torch.equal(total, torch.ones(grid.size))
    assert sorted(k for group in grid.groups(3) for k in group) == sorted(order)


def test_weights_are_a_raised_cosine_over_the_overlap():
    first, second = axis_weights(12, 8, 4)
    rise = np.sin(np.pi / 2 * (np.arange(4) + 0.5) / 4) ** 2
    np.testing.assert_allclose(second, [*rise, 1, 1, 1, 1], atol=1 / 4096)
    assert first.tolist() == second[::-1].tolist()
    # without an overlap every window stands for itself
    assert (axis_weights(12, 4, 0) == 1).all()


def test_a_window_that_does_not_fit_is_named():
    check_overlap(64, 16, 32)
    for window, overlap, multiple, text in [
        (60, 16, 32, "take 64"),
        (0, 0, 1, "not a multiple"),
        (64, 64, 32, "legal: 0 to 63"),
        (64, -1, 32, "legal: 0 to 63"),
    ]:
        with pytest.raises(MsdmError, match=text):
            check_overlap(window, overlap, multiple)
