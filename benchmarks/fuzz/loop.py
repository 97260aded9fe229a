"""A target's inputs, one after the other, in a process of its own."""

import base64
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random

from msdm_kit.core.quiet import quiet_libraries

from .target import Target
from .watch import Finding, Watch

INSTRUMENTED = ("msdm_kit", "roifile", "tifffile", "PIL", "defusedxml", "yaml", "scipy.io", "numpy.lib")
_INSTRUMENTS = "INFO: Instrumenting"
"""What atheris prints of a module that a reader imports late."""
_SAVED = 200
"""Inputs after which what was found is written down."""


def inputs_of(target: Target, count: int, seed: int) -> Iterator[bytes]:
    """Changed files of a target; a change may be of what was made before."""
    rng = Random(seed)
    whole = target.seeds()
    made = list(whole)
    for _ in range(count):
        data = target.mutate(rng.choice(made if rng.random() < 0.3 else whole), rng)
        if len(data) < 2**18 and rng.random() < 0.05:
            made[len(whole) :] = [*made[len(whole) :][-30:], data]
        yield data


class _Session:
    """What a target's process did so far."""

    def __init__(self, target: Target, count: int, folder: Path) -> None:
        self.count, self._folder = count, folder
        self._watch = Watch(target.read, folder / "files", target.memory, addresses=target.addresses)
        self._found: dict[str, str] = {}
        self.done = 0
        seeds = target.seeds()
        for finding, seed in zip(self._watch.warm_up(seeds), seeds, strict=False):
            if _INSTRUMENTS not in finding.what:
                self._add(finding, seed)
        self._start = time.perf_counter()

    def one(self, data: bytes) -> None:
        (self._folder / "current").write_bytes(data)
        finding = self._watch.run(data)
        if finding is not None:
            self._add(finding, data)
        self.done += 1
        if self.done % _SAVED == 0 or finding is not None or self.done == self.count:
            self.save()

    def _add(self, finding: Finding, data: bytes) -> None:
        shortest = self._found.get(finding.what)
        text = base64.b64encode(data).decode()
        if shortest is None or len(text) < len(shortest):
            self._found[finding.what] = text

    def save(self) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        state = {
            "inputs": self.done, "rate": self.done / (time.perf_counter() - self._start), "peak": peak,
            "findings": self._found, "done": self.done >= self.count,
        }  # fmt: skip
        (self._folder / "state.json").write_text(json.dumps(state), encoding="utf-8")


def run_target(target: Target, engine: str, count: int, seed: int, folder: Path) -> None:
    """Fuzz one target in this process, and leave ``state.json`` in the folder."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("always")
    quiet_libraries()  # as the command line begins
    if engine == "mutate":
        session = _Session(target, count, folder)
        for data in inputs_of(target, count, seed):
            session.one(data)
        session.save()
        return
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        session = _Session(target, count, folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    for k, data in enumerate(target.seeds()):
        (corpus / str(k)).write_bytes(data)

    def change(data: bytes, most: int, number: int) -> bytes:
        rng = Random(number)
        return target.mutate(data, rng)[:most] if rng.random() < 0.5 else atheris.Mutate(data, most)

    def one(data: bytes) -> None:
        session.one(data)
        if session.done >= count:
            sys.stdout.flush()
            os._exit(0)

    words = [sys.argv[0], f"-runs={2 * count}", f"-seed={seed + 1}", "-max_len=65536", "-timeout=60"]
    words += ["-rss_limit_mb=0", str(corpus)]
    atheris.Setup(words, one, custom_mutator=change)
    atheris.Fuzz()
