"""Which signals ask a run to stop, and what a second one does."""

import os
import signal
import threading

import pytest

from msdm_kit.plugins.stopping import SIGNALS, stop_event


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """Ctrl-C raises, as in a terminal, whatever the shell that runs the tests has made of it."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_handlers_come_back(number):
    before = [signal.getsignal(n) for n in SIGNALS]
    with stop_event() as stop:
        assert not stop.is_set()
        send(number)
        assert stop.is_set()
        if number != signal.SIGINT:
            send(number)
            send(number)
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_a_second_ctrl_c_is_one():
    with stop_event() as stop:
        send(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_torchrun_passes_ctrl_c_on_more_than_once(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with stop_event() as stop:
        send(signal.SIGINT)
        send(signal.SIGINT)
    assert stop.is_set()


def test_another_thread_has_no_signals():
    seen = []

    def work():
        with stop_event() as stop:
            seen.append(stop.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
