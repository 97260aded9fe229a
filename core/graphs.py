"""CUDA graphs of the solver's step: one launch instead of some thousand, where shapes stay the same."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .conditioning import Signal
from .kernels.verify import relative_error

Function = Callable[[Any, Tensor, Tensor], Tensor]
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]

KEPT = 2
"""Graphs at a time: each holds the prepared states of a batch and the memory of its activations."""
TOLERANCE = 1e-2
"""Relative error to which a graph's first replay must agree with the same step without it."""

_log = logging.getLogger("msdm_kit")


def record_cuda(step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Capture `step`: what replays it, and the tensor in which each replay leaves its result."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    return graph.replay, out


def tensors_of(states: Any) -> list[Tensor]:
    """The tensors of a tree of states, those of signals included, in a fixed order."""
    found: list[Tensor] = []
    for leaf in tree_leaves(states):
        if isinstance(leaf, Signal):
            found += [leaf.data] if leaf.mask is None else [leaf.data, leaf.mask]
        elif isinstance(leaf, Tensor):
            found.append(leaf)
    return found


class _Recorded:
    """One function at one set of shapes; what it reads stays where it is, and new values are copied there."""

    def __init__(self, function: Function, states: Any, record: Record) -> None:
        self.states = states
        self._function = function
        self._record = record
        self._calls = 0
        self.failed = False
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._replay: Callable[[], None] | None = None
        self._out: Tensor | None = None

    def load(self, states: Any) -> None:
        """Take over the values of other states of the same shapes."""
        for mine, new in zip(tensors_of(self.states), tensors_of(states), strict=True):
            # the absent condition's states are those of all batches
            if mine.data_ptr() != new.data_ptr():
                _stored(mine).copy_(_stored(new))

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if self._inputs is not None and self._inputs[0].shape != x.shape:
            self._calls, self._inputs, self._replay = 0, None, None
        self._calls += 1
        if self._replay is not None and self._out is not None and self._inputs is not None:
            self._inputs[0].copy_(x)
            self._inputs[1].copy_(t)
            self._replay()
            return self._out.clone()
        out = self._function(self.states, x, t)
        if self._calls == 2:  # the first call warmed up what is set up lazily, and must not be captured
            self._start(x, t, out)
        return out

    def _start(self, x: Tensor, t: Tensor, expected: Tensor) -> None:
        inputs = (x.clone(), t.clone())
        try:
            replay, out = self._record(lambda: self._function(self.states, *inputs))
            replay()
            error = relative_error(out, expected)
            if not error < TOLERANCE:  # NaN does not pass
                raise RuntimeError(f"a replayed step differs by {error:.1e} from the same step")
        except RuntimeError as problem:
            _log.warning("no CUDA graph, each step is launched by itself: %s", str(problem).splitlines()[0])
            self.failed = True
            return
        self._inputs, self._replay, self._out = inputs, replay, out


def _stored(tensor: Tensor) -> Tensor:
    """What an expanded tensor stores, as a view: one element where the stride is 0."""
    index = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in tensor.stride())
    return tensor[index]


class StepGraphs:
    """A function of (states, x, t), captured at its second call with each set of shapes.

    Where it cannot be captured, or a replay does not give the same, every call runs as it is, which the log
    says once.

    Parameters
    ----------
    function : callable (states, x (B, C, H, W), t (B,)) -> Tensor
        Without side effects; of tensors alone.
    record : callable
        As `record_cuda`.
    """

    def __init__(self, function: Function, record: Record = record_cuda) -> None:
        self._function = function
        self._record = record
        self._recorded: OrderedDict[tuple[Any, ...], _Recorded] = OrderedDict()

    def bind(self, states: Sequence[Any]) -> Callable[[Tensor, Tensor], Tensor]:
        """The function of (x, t) at these states; it holds until the next call of `bind`."""
        if any(recorded.failed for recorded in self._recorded.values()):
            return partial(self._function, states)
        key = tuple((t.shape, t.stride(), t.dtype) for t in tensors_of(states))
        recorded = self._recorded.pop(key, None)
        if recorded is None:
            recorded = _Recorded(self._function, states, self._record)
        else:
            recorded.load(states)
        self._recorded[key] = recorded
        while len(self._recorded) > KEPT:
            self._recorded.popitem(last=False)
        return recorded
