"""Which pixels of a real image stay: by hand, and what margins guarantee."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_cdt

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.recipe import SampleSection
from msdm_kit.plugins.kept_pixels import kept_pixels
from msdm_kit.plugins.recipe_files import load_recipe

BEFORE = {
    "cell": np.array([[1, 1, 2, 2, 0, 0]], np.int32),
    "nucleus": np.array([[0, 1, 2, 0, 0, 0]], np.int32),
}
AFTER = {
    "cell": np.array([[1, 1, 0, 0, 3, 3]], np.int32),
    "nucleus": np.array([[0, 1, 0, 0, 3, 0]], np.int32),
}


def kept(keep, margin=0):
    found = kept_pixels(SampleSection(keep=keep, keep_margin=margin), BEFORE, AFTER)
    return "".join(".k"[int(k)] for k in found[0])


@pytest.mark.parametrize(
    ("keep", "margin", "wanted"),
    [
        ("unchanged", 0, "kk...."),
        ("unchanged", 1, "k....."),
        ("inside:cell", 0, "kk...."),
        ("outside:nucleus", 0, "k..k.k"),
        ("outside:nucleus", 1, "......"),
        ("inside:nucleus", 0, ".k...."),
    ],
)
def test_by_hand(keep, margin, wanted):
    assert kept(keep, margin) == wanted


def test_nothing_is_none():
    assert kept_pixels(SampleSection(), BEFORE, AFTER) is None


def test_a_kind_that_is_not_there():
    with pytest.raises(
        MsdmError, match="keep inside:gland: the field has no 'gland' mask; it has: cell, nucleus"
    ):
        kept("inside:gland")
    with pytest.raises(MsdmError, match=r"sample\.keep: no mask kind 'gland' in data\.masks"):
        load_recipe("msdm", ["sample.keep=outside:gland"])


masks = arrays(np.int32, (9, 11), elements=st.integers(0, 2))


@settings(max_examples=30, deadline=None)
@given(
    before=masks,
    after=masks,
    margin=st.integers(0, 4),
    keep=st.sampled_from(["unchanged", "outside:nucleus"]),
)
def test_a_margin_is_a_distance_from_what_is_painted(before, after, margin, keep):
    pair = {"nucleus": before}, {"nucleus": after}
    plain = kept_pixels(SampleSection(keep=keep), *pair)
    with_margin = kept_pixels(SampleSection(keep=keep, keep_margin=margin), *pair)
    if plain.all():
        assert with_margin.all()
    else:
        np.testing.assert_array_equal(with_margin, distance_transform_cdt(plain, "chessboard") > margin)
