import multiprocessing
import operator

import pytest

from msdm_kit.plugins.parallel import CHUNK, ordered_map


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 2 * CHUNK + 3])
def test_results_come_in_order_and_progress_follows_the_caller(workers, count):
    told, items = [], list(range(count))
    for k, result in enumerate(ordered_map(operator.neg, items, workers, lambda *now: told.append(now))):
        assert result == -k
        assert told[-1] == (k, count), "an item is done when its result was used"
    assert told == [(k, count) for k in range(count + 1)]


@pytest.mark.parametrize("workers", [1, 2])
def test_who_stops_half_way_leaves_no_process(workers):
    told = []
    results = ordered_map(operator.neg, list(range(200)), workers, lambda *now: told.append(now))
    assert [next(results), next(results)] == [0, -1]
    results.close()
    assert multiprocessing.active_children() == []
    assert told == [(0, 200), (1, 200)]


def test_an_error_is_raised_at_its_place_as_it_is():
    results = ordered_map(operator.neg, [1, "a", 2], 2)
    with pytest.raises(TypeError):
        list(results)
    assert multiprocessing.active_children() == []
