"""The logic of recorded steps, with a recorder that runs on the CPU; tests/test_gpu.py has the real one."""

import logging

import pytest
import torch

from msdm_kit.core.conditioning import Signal
from msdm_kit.core.graphs import KEPT, StepGraphs, tensors_of


def record(step):
    """As a CUDA graph: reads and writes the memory that it was recorded with."""
    out = step()

    def replay():
        out.copy_(step())

    return replay, out


class Function:
    """a x + t b of states [{"a"}, Signal(b)], counting its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, states, x, t):
        self.calls += 1
        return states[0]["a"] * x + t.view(-1, 1) * states[1].data


def states_of(a, b, rows=2):
    return [{"a": torch.full((rows, 3), float(a))}, Signal(torch.full((1, 1), float(b)).expand(rows, 3))]


def test_replays_give_what_the_function_gives():
    function = Function()
    graphs = StepGraphs(function, record)
    for a, b in ((2, 3), (5, 7)):
        step = graphs.bind(states_of(a, b))
        for k in range(5):
            x, t = torch.full((2, 3), float(k)), torch.tensor([k, 10])
            expected = a * x + t.view(-1, 1) * b
            assert torch.equal(step(x, t), expected)
    assert len(graphs._recorded) == 1


def test_a_result_outlives_the_next_replay():
    step = StepGraphs(Function(), record).bind(states_of(1, 0))
    t = torch.zeros(2)
    results = [step(torch.full((2, 3), float(k)), t) for k in range(5)]
    assert [float(r[0, 0]) for r in results] == [0, 1, 2, 3, 4]


def test_inputs_are_copied_where_the_recording_reads_them():
    graphs = StepGraphs(Function(), record)
    first = states_of(1, 1)
    step = graphs.bind(first)
    x, t = torch.ones(2, 3), torch.ones(2)
    for _ in range(3):
        step(x, t)
    x.fill_(100)  # the recording must not read the caller's memory
    assert torch.equal(step(torch.zeros(2, 3), t), torch.ones(2, 3))
    graphs.bind(states_of(4, 6))
    assert float(first[0]["a"][0, 0]) == 4
    assert float(first[1].data[1, 2]) == 6


def test_shapes_have_graphs_of_their_own_and_old_ones_go():
    graphs = StepGraphs(Function(), record)
    for rows in (1, 2, 3, 1):
        step = graphs.bind(states_of(2, 1, rows))
        for _ in range(3):
            assert torch.equal(step(torch.ones(rows, 3), torch.ones(rows)), torch.full((rows, 3), 3.0))
    assert len(graphs._recorded) == KEPT


def test_another_size_of_x_is_recorded_anew():
    graphs = StepGraphs(lambda states, x, t: 2 * x, record)
    step = graphs.bind([])
    for side in (3, 5, 3):
        for k in range(4):
            assert torch.equal(
                step(torch.full((1, side), float(k)), torch.zeros(1)), torch.full((1, side), 2.0 * k)
            )


@pytest.mark.parametrize("how", ["raises", "differs"])
def test_what_cannot_be_recorded_runs_as_it_is_and_is_said_once(how, caplog):
    def broken(step):
        if how == "raises":
            raise RuntimeError("operation not permitted when stream is capturing\nand a trace")
        return (lambda: None), step() + 1

    function = Function()
    graphs = StepGraphs(function, broken)
    with caplog.at_level(logging.WARNING, "msdm_kit"):
        for a in (2, 3):
            step = graphs.bind(states_of(a, 0))
            for _ in range(4):
                assert torch.equal(step(torch.ones(2, 3), torch.zeros(2)), torch.full((2, 3), float(a)))
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        "no CUDA graph, each step is launched by itself"
    ]
    assert "trace" not in caplog.text


def test_tensors_of_a_tree():
    a, b, mask = torch.zeros(1), torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.bool)
    states = [{"x": [(object(), {"k": a}), (object(), Signal(b, mask))]}]
    found = tensors_of(states)
    assert [id(t) for t in found] == [id(a), id(b), id(mask)]
