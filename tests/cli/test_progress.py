"""Progress: the remaining time is that of the recent pace, and a live bar appears on a terminal only."""

import io

import pytest
from rich.console import Console

from msdm_kit.cli import progress as progress_module
from msdm_kit.cli.data_progress import DataProgress
from msdm_kit.cli.progress import Pace, SamplingProgress, TrainingProgress, duration
from msdm_kit.core.optimise import StepReport
from msdm_kit.core.recipe import TrainSection
from msdm_kit.plugins.sampling.events import Planned, Stepped
from msdm_kit.plugins.training_events import Checked, Saved, Started, Validated


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_pace_of_even_steps():
    clock = Clock()
    pace = Pace(10, 50, clock)
    pace.reached(0)
    assert pace.rate is None
    assert pace.remaining is None
    for step in range(1, 5):
        clock.now += 2.0
        pace.reached(step)
    assert (pace.rate, pace.remaining, pace.elapsed) == (0.5, 12.0, 8.0)


def test_pace_counts_pauses_and_forgets():
    clock = Clock()
    pace = Pace(100, 4, clock)
    pace.reached(0)
    for step in range(1, 5):
        clock.now += 1.0 + 6.0 * (step == 2)  # a validation before step 2
        pace.reached(step)
    assert pace.remaining == pytest.approx(96 * 10 / 4)
    for step in range(5, 10):
        clock.now += 1.0
        pace.reached(step)
    assert pace.remaining == pytest.approx(91)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (0, "0 s"), (59.4, "59 s"), (60, "1:00"), (3725, "1:02:05"), (90000, "25:00:00")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("terminal", [True, False])
def test_training(terminal, tmp_path):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200, markup=False, highlight=False)
    section = TrainSection(steps=3, batch=2)
    with TrainingProgress(console, section) as progress:
        for done in (1, 2):
            progress(Checked(done, 2))
        progress(Started(3, 1, 1234, 7, "cpu", ("a note",)))
        for step in (2, 3):
            progress(StepReport(step, 0.5, 1.0, 1e-4, 2))
        progress(Validated(3, {"t=0.125": 0.25}))
        progress(Saved(3, tmp_path / "[w].safetensors"))
    text = console.file.getvalue()
    assert "1,234 parameters, 7 training fields, 3 steps, 1 of them done, on cpu" in text
    assert "note: a note" in text
    assert "step 3: validation loss  t=0.125 0.2500" in text
    assert "[w].safetensors" in text
    assert ("\x1b" in text) == terminal
    assert ("step 3/3  loss 0.5000" in text) != terminal


def test_sampling_off_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    with SamplingProgress(console) as progress:
        progress(Planned(2, 3, 3, 1, "cpu", share=2))
        for _ in range(3):
            progress(Stepped(2))
    text = console.file.getvalue()
    assert "painting 2 fields in 3 steps each, on cpu" in text
    assert "note: 1 of them are of the training split" in text
    assert "evaluation 2/6  0/2 pairs" in text


def test_fields_per_second_are_said_from_the_second_call_on(monkeypatch):
    monkeypatch.setattr(progress_module, "LINE_EVERY", 0)
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    with DataProgress(console, "checking") as progress:
        for done in range(3):
            progress(done, 4)
    first, *others = console.file.getvalue().splitlines()
    assert first == "checking 0/4  ? fields/s  remaining ?"
    for done, line in enumerate(others, 1):
        assert line.startswith(f"checking {done}/4  ")
        assert "?" not in line
