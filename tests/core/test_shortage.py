"""What counts as a lack of memory, and what is given up for it, in order."""

import errno

import pytest
import torch

from msdm_kit.core.errors import MsdmError, out_of_memory
from msdm_kit.core.shortage import Shortage


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("a convolution found no memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 16 bytes"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a primitive"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("/a/b.so: failed to map segment from shared object"),
    ],
)
def test_lack_of_memory_by_whomever_says_so(error):
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), OSError(errno.ENOSPC, "full"), ValueError(),
     ImportError("cannot import name 'a' from 'b'"),
     MsdmError("out of memory on cpu: take --window 64")],
)  # fmt: skip
def test_other_errors(error):
    assert not out_of_memory(error)


def test_the_real_words_of_torch_on_a_cpu():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


def test_halves_first_then_keeps_nothing_then_gives_up(caplog):
    shortage = Shortage("fields")
    assert shortage.at_once(7) == 7
    assert shortage.retreat(7, keeps=True)
    assert (shortage.at_once(7), shortage.at_once(2), shortage.frugal) == (3, 2, False)
    assert shortage.retreat(3, keeps=True)
    assert shortage.at_once(7) == 1
    assert shortage.retreat(1, keeps=True)
    assert (shortage.at_once(7), shortage.frugal) == (1, True)
    assert not shortage.retreat(1, keeps=True)
    assert [r.getMessage() for r in caplog.records] == [
        "out of memory with 7 fields at once: going on with 3",
        "out of memory with 3 fields at once: going on with 1",
        "out of memory: going on without what is prepared once, which is slower and changes nothing",
    ]


def test_what_keeps_nothing_has_nothing_to_give_up():
    assert not Shortage("windows").retreat(1, keeps=False)
