"""What is fuzzed: a reader, whole files that it reads, and how they are changed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .mutate import Mutator, raw

CHEAP, FILE, SLOW = 100_000, 10_000, 2_000
"""Inputs of a target: of text, of a file format, and where each builds a network or walks folders."""
MIB = 2**20


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes
    ----------
    name : str
    seeds : callable () -> list of bytes
        Inputs that are read without a mistake, or with one that is told; made in memory.
    read : callable (folder, data)
        Writes an input to a new folder, and has it read.
    mutate : callable (data, rng) -> bytes
    inputs : int
        How many a full run reads.
    memory : int
        Bytes that one input may take.
    addresses : bool
        Whether that holds for addresses too; False counts only what is resident: PyTorch asks for the bytes
        that a tensor of a .pt says it has before it finds them missing, and touches none of them.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path, bytes], None]
    mutate: Mutator = raw
    inputs: int = FILE
    memory: int = 512 * MIB
    addresses: bool = True
