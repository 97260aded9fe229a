"""What plugins hand to the engine, checked; one that breaks all of it: tests/cli/test_hostile.py."""

import signal
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from msdm_kit.core import guard
from msdm_kit.core.conditioning import Signal, Spec
from msdm_kit.core.errors import MsdmError

CPU = torch.device("cpu")


class Slow:
    """As much of a conditioner as `observe` uses."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def observe(self, sample):
        time.sleep(self.seconds)
        return {}


@pytest.mark.parametrize(
    ("spec", "shape"),
    [(Spec("map", 3), (2, 3, 4, 5)), (Spec("tokens", 3), (2, 7, 3)), (Spec("vector", 3), (2, 3))],
)
def test_signal_of_its_spec_has_no_fault(spec, shape):
    assert guard.signal_fault(Signal(torch.zeros(shape)), spec, CPU, 2) == ""
    assert guard.signal_fault(Signal(torch.zeros(shape)), spec, None, None) == ""
    assert "3 rows" not in guard.signal_fault(Signal(torch.zeros(shape)), spec, CPU, 2)
    assert guard.signal_fault(Signal(torch.zeros(shape)), spec, CPU, 3) == "2 rows for a batch of 3"
    assert "its spec is" in guard.signal_fault(Signal(torch.zeros(shape)), Spec(spec.kind, 4), CPU, 2)
    assert "its spec is" in guard.signal_fault(Signal(torch.zeros(2, 3, 1, 1, 1)), spec, CPU, 2)
    assert "its spec is" in guard.signal_fault(Signal(torch.tensor(1.0)), spec, CPU, 2)


def test_mask_of_tokens_has_their_shape():
    tokens = torch.zeros(2, 7, 3)
    assert guard.signal_fault(Signal(tokens, torch.ones(2, 7).bool()), Spec("tokens", 3), CPU, 2) == ""
    fault = guard.signal_fault(Signal(tokens, torch.ones(2, 6).bool()), Spec("tokens", 3), CPU, 2)
    assert fault == "a mask of (2, 6) for tokens of (2, 7, 3)"


def test_conditions_that_are_not_finite_are_found():
    good, bad = torch.ones(1, 2), torch.tensor([[1.0, float("inf")]])
    assert guard.not_finite({"a": Signal(good), "b": Signal(bad)}) == ["b"]


def test_time_limit_ends_with_what_it_limits(monkeypatch):
    monkeypatch.setattr(guard, "OBSERVE_SECONDS", 0.05)
    sample = SimpleNamespace(id="f1")
    with pytest.raises(
        MsdmError, match=r"conditioner 'c' \(.*Slow\) has looked at sample 'f1' for more than 0.05"
    ):
        guard.observe("c", Slow(30), sample)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert guard.observe("c", Slow(0), sample) == {}


def test_no_limit_where_an_alarm_is_another_program_s_or_there_are_no_signals(monkeypatch):
    monkeypatch.setattr(guard, "OBSERVE_SECONDS", 0.01)
    sample, seen = SimpleNamespace(id="f1"), []
    thread = threading.Thread(target=lambda: seen.append(guard.observe("c", Slow(0.05), sample)))
    thread.start()
    thread.join()
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        seen.append(guard.observe("c", Slow(0.05), sample))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert seen == [{}, {}]


def test_mistake_and_lack_of_memory_pass_as_they_are():
    full = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")
    for error in (MsdmError("mend the field"), torch.OutOfMemoryError("full"), MemoryError(), full):
        with pytest.raises(type(error)) as caught, guard.blamed("c", Slow(0), "fails"):
            raise error
        assert caught.value is error


def test_exception_without_a_note_passes_what_explains_it():
    error = ValueError("of the engine")
    with pytest.raises(ValueError, match="of the engine"), guard.explained():
        raise error
