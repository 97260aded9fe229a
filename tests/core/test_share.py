"""How an optimiser step is shared out among processes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.processes import Processes
from msdm_kit.core.recipe import TrainSection
from msdm_kit.core.share import share_of_step


def section(batch, accumulate):
    return TrainSection(steps=1, batch=batch, accumulate=accumulate)


def test_one_process_has_the_passes_of_the_recipe():
    share = share_of_step(section(5, 3))
    assert (share.images, share.first, share.passes) == (15, 0, (5, 5, 5))
    batches = share_of_step(section(2, 2)).batches(3, 5)
    assert list(batches) == [[12, 13], [14, 15], [16, 17], [18, 19]]


@pytest.mark.parametrize(
    ("batch", "accumulate", "count", "passes"),
    [
        (8, 1, 2, (4,)),
        (4, 4, 2, (4, 4)),
        (4, 3, 2, (3, 3)),
        (5, 2, 2, (5,)),
        (4, 7, 4, (4, 3)),
        (1, 2, 2, (1,)),
    ],
)
def test_shares(batch, accumulate, count, passes):
    assert share_of_step(section(batch, accumulate), Processes(count - 1, count)).passes == passes


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 8), st.integers(0, 5))
def test_every_crop_of_a_step_is_in_one_pass_of_one_process(batch, accumulate, count, step):
    images = batch * accumulate
    if images % count:
        with pytest.raises(MsdmError, match=rf"{count} processes cannot share out the {images} images"):
            share_of_step(section(batch, accumulate), Processes(0, count))
        return
    crops = []
    for rank in range(count):
        share = share_of_step(section(batch, accumulate), Processes(rank, count))
        batches = share.batches(step, step + 1)
        assert len(batches) == len(list(batches)) == len(share.passes)
        assert max(share.passes) <= batch
        assert max(share.passes) - min(share.passes) <= 1
        assert share.first == rank * images // count
        crops += [n for numbers in batches for n in numbers]
    assert crops == list(range(step * images, (step + 1) * images))


def test_the_legal_numbers_are_named():
    with pytest.raises(MsdmError, match=r"5 x train.accumulate 2\) evenly; legal: 1, 2, 5, 10 processes"):
        share_of_step(section(5, 2), Processes(0, 3))
