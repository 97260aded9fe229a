"""Named seeds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msdm_kit.core.seeds import rng_for, seed_for

KEYS = st.lists(st.one_of(st.integers(), st.text()), max_size=4)


def test_known_answers():
    # The first 63 bits of SHA-256 of '[]' and of '[0, "order", 1]', as sha256sum prints them.
    assert seed_for() == 0x4F53CDA18C2BAA0C >> 1
    assert seed_for(0, "order", 1) == 0xF0D7C85AFF179BD5 >> 1


def test_numpy_integers_count_as_integers_and_floats_are_refused():
    assert seed_for(np.int64(3), "a") == seed_for(3, "a")
    with pytest.raises(TypeError):
        seed_for(0.5)  # type: ignore[arg-type]


@given(KEYS, KEYS)
def test_equal_keys_and_only_they_give_equal_seeds(a, b):
    assert (seed_for(*a) == seed_for(*b)) == (a == b)
    assert 0 <= seed_for(*a) < 2**63


def test_an_int_and_its_digits_differ_and_joining_keys_does_not_collide():
    assert len({seed_for(1), seed_for("1"), seed_for(1, 1), seed_for(11), seed_for("1", "1")}) == 5


@given(KEYS)
def test_generators_repeat(keys):
    assert np.array_equal(rng_for(*keys).integers(2**40, size=4), rng_for(*keys).integers(2**40, size=4))
