import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from msdm_kit.plugins.parallel import CHUNK, ordered_map, uninterrupted


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


def test_ctrl_c_is_held_back_and_not_lost():
    # a shell starts what runs in the background with Ctrl-C ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    handler, mask = signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    stop, done = threading.Event(), []
    other = threading.Thread(target=stop.wait)  # takes the signals that the main thread blocks
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt), uninterrupted():  # noqa: PT012  # it is raised at the end
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            done.append("all")
    finally:
        stop.set()
        other.join()
        left = signal.signal(signal.SIGINT, before)
    assert done == ["all"]
    assert left is handler
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


STARTING = """\
import operator, os, signal
from multiprocessing.context import SpawnProcess
from msdm_kit.plugins.parallel import ordered_map

start = SpawnProcess.start

def interrupted(process):
    start(process)
    os.kill(os.getpid(), signal.SIGINT)  # before the pool knows that there is one

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    SpawnProcess.start = interrupted
    try:
        list(ordered_map(operator.neg, list(range(100)), 2))
    except KeyboardInterrupt:
        print("stopped", flush=True)
"""


def test_ctrl_c_while_processes_start_ends_all(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(STARTING)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")
