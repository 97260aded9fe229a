"""Who a process is, and the words that processes exchange."""

import pytest
import torch

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.processes import ALONE, Processes, joined, processes

from ..ranks import in_ranks


def test_without_torchrun_a_process_is_alone():
    assert processes({}) == ALONE == Processes(0, 1, 0)
    with joined() as here:
        assert here.leads
        here.wait()
        assert here.most(3) == 3
        assert here.gather({"a": 1}) == [{"a": 1}]
        assert here.share("abc") == "abc"
        assert here.add(torch.ones(2)).tolist() == [1, 1]


def test_the_variables_of_torchrun():
    words = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    here = processes(words)
    assert here == Processes(5, 8, 1)
    assert not here.leads
    assert here.share(range(20)) == range(5, 20, 8)


@pytest.mark.parametrize(
    "change", [{"RANK": "8"}, {"RANK": "x"}, {"RANK": ""}, {"LOCAL_RANK": "6"}, {"WORLD_SIZE": "-1"}]
)
def test_variables_that_do_not_fit(change):
    words = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"} | change
    with pytest.raises(MsdmError, match="do not name a process of a job; start it with torchrun"):
        processes(words)


def test_what_processes_tell_each_other(tmp_path):
    def talk(rank):
        with joined() as here, joined() as inner:
            assert here == inner == Processes(rank, 3, rank)
            here.wait()
            told = here.gather({"rank": rank, "text": "µ" * rank, "loss": 1 / 3})
            return [told, here.most(rank % 2), here.add(torch.tensor([rank, 1.0])).tolist()]

    told = [{"rank": r, "text": "µ" * r, "loss": 1 / 3} for r in range(3)]
    assert in_ranks(3, talk, tmp_path) == [[told, 1, [3.0, 3.0]]] * 3


def test_one_process_says_what_ends_the_job(tmp_path):
    def fail(rank):
        with joined() as here:
            if rank == 1:
                raise MsdmError("no field 'a'")
            here.wait()

    first, second, third = in_ranks(3, fail, tmp_path)
    assert second == {"raised": "MsdmError", "text": "process 1 of 3: no field 'a'"}
    assert first["raised"] == third["raised"] == "SaidElsewhere"


def test_a_defect_keeps_its_own_exception(tmp_path):
    def fail(rank):
        with joined() as here:
            if rank == 1:
                raise KeyError("a")
            here.wait()

    assert [one["raised"] for one in in_ranks(2, fail, tmp_path)] == ["SaidElsewhere", "KeyError"]
