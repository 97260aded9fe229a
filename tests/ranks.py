"""Several processes of one job, without the seconds that torchrun takes to start them."""

import json
import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def new_store() -> dist.TCPStore:
    """As torchrun has one for all its starts of the same processes."""
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def in_ranks(
    count: int,
    function: Callable[[int], Any],
    folder: Path,
    *,
    restarts: int = 0,
    store: dist.TCPStore | None = None,
) -> list[Any]:
    """What `function(rank)` returns, as JSON, in each of so many processes with torchrun's variables.

    The processes are forked: the modules that this one has imported are there at once. One that raises
    returns ``{"raised": class, "text": message}``, one that is killed None.
    """
    store = store or new_store()
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    args = [(function, rank, count, store.port, folder / f"{rank}.json", restarts) for rank in range(count)]
    started = [context.Process(target=_run, args=a) for a in args]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        assert process.exitcode is not None, "a process hangs"
    files = [folder / f"{rank}.json" for rank in range(count)]
    return [json.loads(file.read_text()) if file.exists() else None for file in files]


def _run(function: Callable[[int], Any], rank: int, count: int, port: int, file: Path, restarts: int) -> None:
    torch.set_num_threads(1)  # the threads of the process that was forked are not here
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_RESTART_COUNT": str(restarts),
    }
    try:
        value = function(rank)
    except Exception as error:
        traceback.print_exc()
        value = {"raised": type(error).__name__, "text": str(error)}
    file.write_text(json.dumps(value))
    os._exit(0)
