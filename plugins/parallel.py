"""Work on many items in several processes: in order, in bounded memory, stopped cleanly."""

import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from typing import Any, TypeVar

from ..core.errors import MsdmError
from ..core.fields import Progress
from ..core.processes import processes

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

CHUNK = 16
"""Items that a process is given at once."""
FEW = 500
"""Below so many items, starting processes takes longer than the work."""


def default_workers(items: int) -> int:
    """Processes for so many items: all cores for many, this process alone for few."""
    if items < FEW:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> Iterator[_Result]:
    """``map(function, items)`` in several processes.

    Parameters
    ----------
    function : callable
        Of the top level of a module, or a partial of one: it is sent to the processes.
    items : sequence
    workers : int or None
        Processes; 1 works in this one, None takes `default_workers`.
    on_progress : callable (done, total) or None
        Called first with (0, total), then after each result, when the caller is done with it.

    Yields
    ------
    In the order of `items`. At most 4 chunks per process are under way, however slowly results are taken.

    Raises
    ------
    MsdmError
        A process died, such as for want of memory. What `function` raises is raised as it is.
    """
    workers = default_workers(len(items)) if workers is None else workers
    if on_progress is not None:
        on_progress(0, len(items))
    # the processes end with this generator, wherever its caller stops
    with closing(_results(function, items, workers)) as results:
        for done, result in enumerate(results, 1):
            yield result
            if on_progress is not None:
                on_progress(done, len(items))


def shared_map(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    kind: Any,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> Iterator[_Result]:
    """As `ordered_map`, where torchrun has started several processes by all of them: each does its share.

    Parameters
    ----------
    function, items, workers, on_progress
        As `ordered_map` takes them; workers are those of each process.
    kind : type
        Of a result, as pydantic reads it from JSON, by which processes exchange results.

    Yields
    ------
    In the order of `items`, in every process.
    """
    here = processes()
    if here.count == 1:
        yield from ordered_map(function, items, workers, on_progress)
        return
    from pydantic import TypeAdapter

    adapter: TypeAdapter[_Result] = TypeAdapter(kind)
    own = here.share(items)
    workers = default_workers(len(items)) // here.count if workers is None else workers
    if on_progress is not None:
        on_progress(0, len(items))
    texts = []
    for done, result in enumerate(ordered_map(function, own, max(1, workers)), 1):
        texts.append(json.dumps(adapter.dump_python(result), default=_plain))
        if on_progress is not None:  # the others are as far, or nearly
            on_progress(min(done * here.count, len(items)), len(items))
    told = here.gather(texts)
    for i in range(len(items)):
        yield adapter.validate_python(json.loads(told[i % here.count][i // here.count]))


def _plain(value: Any) -> Any:
    """A number of NumPy's as Python's."""
    return value.item()


def _results(
    function: Callable[[_Item], _Result], items: Sequence[_Item], workers: int
) -> Generator[_Result, None, None]:
    if workers <= 1:
        yield from map(function, items)
        return
    # spawn: a fork of a process with threads (PyTorch's) can hang
    context = multiprocessing.get_context("spawn")
    chunks = (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_interrupts)
    under_way: deque[Future[list[_Result]]] = deque()
    try:
        for chunk in chunks:
            with uninterrupted():  # it starts processes
                under_way.append(pool.submit(_work, function, chunk))
            if len(under_way) >= 4 * workers:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()
    except BrokenProcessPool:
        raise MsdmError(
            f"one of {workers} worker processes died, as where memory runs out; take fewer: --workers 1"
        ) from None
    finally:
        with uninterrupted():  # a second Ctrl-C must not leave them
            pool.shutdown(cancel_futures=True)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the end, and keep it from the processes that are started meanwhile.

    A process whose start is cut off waits for ever for what it is to do, and its parent for its end. Blocking
    the signal in the main thread is not enough, as any other thread takes it for the whole process. A process
    that is started hears Ctrl-C once it unblocks it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Ctrl-C never comes here
        return
    came: list[int] = []
    blocks = hasattr(signal, "pthread_sigmask")  # Windows has none
    handler = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if blocks else set()
    try:
        yield
    finally:
        if blocks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, signal.SIG_DFL if handler is None else handler)
        if came:
            signal.raise_signal(signal.SIGINT)


def _work(function: Callable[[_Item], _Result], chunk: Sequence[_Item]) -> list[_Result]:
    return [function(item) for item in chunk]


def _ignore_interrupts() -> None:
    # Ctrl-C reaches every process of a terminal: the main one ends the others, without their tracebacks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
