"""Which field another is mixed with; what is painted so: tests/cli/test_mask_operations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.sample import Sample
from msdm_kit.plugins.recombination import PlannedOutput
from msdm_kit.plugins.targets import Targets

SIZES = ((8, 8), (8, 16), (16, 8))
PAINTED = st.dictionaries(
    st.text("abcd", min_size=1, max_size=3), st.tuples(st.sampled_from(SIZES), st.booleans()), min_size=1
)


class Fields:
    """A data set of (height, width) by id; a field that is read is told."""

    def __init__(self, sizes):
        self.ids, self.sizes, self.read = list(sizes), list(sizes.values()), []

    def by_id(self, id):
        self.read.append(id)
        return Sample(id, None, {"nucleus": np.ones(self.sizes[self.ids.index(id)], np.int32)}, {})


def targets_of(sizes, painted):
    outputs = [PlannedOutput(f"{id}{v}", v, id, id, id) for v in (1, 2) for id in painted]
    return Targets(Fields(sizes), outputs, frozenset(), frozenset(), ())


def test_fields_of_a_size():
    found = targets_of({"c": (8, 8), "b": (8, 16), "a": (8, 8), "d": (8, 8)}, "cba")
    assert found.alike("a") == found.alike("c") == ["a", "c"]
    with pytest.raises(MsdmError, match="no other field has the size of 'b'"):
        found.alike("b")
    assert found.dataset.read == []


@given(PAINTED, st.integers(0, 99))
def test_another_one_of_the_same_size_is_drawn_from_all_in_order(fields, seed):
    sizes = {id: size for id, (size, _) in fields.items()}
    painted = [id for id, (_, chosen) in fields.items() if chosen]
    found = targets_of(sizes, painted)
    for id in painted:
        others = sorted(other for other in painted if other != id and sizes[other] == sizes[id])
        if others:
            drawn = others[int(np.random.default_rng(seed).integers(len(others)))]
            assert found._other(id, np.random.default_rng(seed)).id == drawn
        else:
            with pytest.raises(MsdmError, match="paint more fields"):
                found._other(id, np.random.default_rng(seed))
