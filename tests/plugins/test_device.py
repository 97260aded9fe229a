"""What a device has to spare, by files that look like those of a kernel."""

import pytest
import torch

from msdm_kit.core.recipe import TrainSection
from msdm_kit.plugins import device
from msdm_kit.plugins.training import loader_workers

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GIB = 2**30


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A machine of 16 GiB of which 8 are available; returns a function that puts a process into a group."""
    (tmp_path / "meminfo").write_text(f"MemTotal: {16 * 2**20} kB\nMemAvailable: {8 * 2**20} kB\n")
    (tmp_path / "cgroup").write_text("")
    (tmp_path / "groups").mkdir()
    monkeypatch.setattr(device, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(device, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(device, "_CGROUPS", tmp_path / "groups")

    def group(line, folder, files):
        (tmp_path / "cgroup").write_text(f"1:name=systemd:/\n{line}\n")
        where = tmp_path / "groups" / folder
        where.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (where / name).write_text(text)

    return group


def v2(limit, used, cache):
    return {"memory.max": str(limit), "memory.current": str(used), "memory.stat": f"inactive_file {cache}\n"}


def test_what_the_system_says_is_available(kernel):
    assert device.free_memory(CPU) == 8 * GIB


@pytest.mark.parametrize("folder", ["a/b", "a", ""])
def test_a_limit_of_any_group_above(kernel, folder):
    """Used memory counts but for the cache of files, 5 - (4 - 1)."""
    kernel("0::/a/b", folder, v2(5 * GIB, 4 * GIB, GIB))
    assert device.free_memory(CPU) == 2 * GIB


def test_a_group_without_a_limit(kernel):
    kernel("0::/a", "a", v2("max", GIB, 0))
    assert device.free_memory(CPU) == 8 * GIB


def test_more_used_than_allowed_is_nothing_free(kernel):
    kernel("0::/a", "a", v2(GIB, 2 * GIB, 0))
    assert device.free_memory(CPU) == 0


def test_the_first_version_of_control_groups(kernel):
    files = {"limit_in_bytes": 3 * GIB, "usage_in_bytes": GIB, "stat": "cache 7\ntotal_inactive_file 0\n"}
    kernel("4:cpu,memory:/x", "memory/x", {f"memory.{k}": str(v) for k, v in files.items()})
    assert device.free_memory(CPU) == 2 * GIB


def test_a_system_that_does_not_say(kernel, monkeypatch, tmp_path):
    monkeypatch.setattr(device, "_MEMINFO", tmp_path / "none")
    pages = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr("os.sysconf", pages.__getitem__, raising=False)
    assert device.free_memory(CPU) == 500 * 4096
    monkeypatch.delattr("os.sysconf")
    assert device.free_memory(CPU) == device._UNKNOWN


def test_this_machine():
    assert device.free_memory(CPU) > 0
    assert device.cores() >= 1


@pytest.mark.parametrize(
    ("where", "cores", "threads", "expected"),
    [
        (GPU, 1, 1, 0),
        (GPU, 4, 4, 3),
        (GPU, 64, 32, 8),
        (CPU, 2, 1, 0),
        (CPU, 8, 8, 0),
        (CPU, 8, 7, 1),
        (CPU, 8, 4, 2),
        (CPU, 4, 8, 0),
    ],
)
def test_loader_processes(monkeypatch, where, cores, threads, expected):
    monkeypatch.setattr(device, "cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert device.loader_processes(where) == expected
    assert loader_workers(TrainSection(steps=1), where) == expected
    assert loader_workers(TrainSection(steps=1, workers=5), where) == 5
