"""The benchmarks start, say what they take, and measure what they say; their peers are not here."""

import argparse
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from msdm_kit import FieldDataset

CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[1]))
NAMES = sorted(p.stem for p in (CHECKOUT / "benchmarks").glob("*.py") if p.stem != "__init__")


@pytest.fixture(scope="module")
def bench():
    """Import a benchmark from the checkout, whose root is not on the path: `core` there would hide others."""
    kept = {k: v for k, v in sys.modules.items() if k.partition(".")[0] == "benchmarks"}
    folder = CHECKOUT / "benchmarks"
    spec = importlib.util.spec_from_file_location(
        "benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["benchmarks"] = package
    spec.loader.exec_module(package)
    yield lambda name: importlib.import_module(f"benchmarks.{name}")
    for name in [k for k in sys.modules if k.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]
    sys.modules.update(kept)


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_imports_and_says_how_it_is_run(bench, name, monkeypatch, capsys):
    module = bench(name)
    if not hasattr(module, "main"):  # what the benchmarks share
        return
    assert f"python -m benchmarks.{name}" in module.__doc__
    if "argparse" not in vars(module):
        return
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        module.main()
    assert stopped.value.code == 0
    assert "usage" in capsys.readouterr().out


def table(text: str) -> list[list[str]]:
    """The cells of the rows of a printed markdown table, without its head."""
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return rows[2:]


def test_conditions_without_peers(bench, monkeypatch, capsys):
    module = bench("conditions")
    monkeypatch.setattr(module, "monai", lambda: None)
    monkeypatch.setattr(sys, "argv", ["conditions", "--side", "48", "--cells", "4", "--repeats", "1"])
    module.main()
    out = capsys.readouterr().out
    assert "4 instances" in out.splitlines()[0]
    rows = table(out)
    assert [r[0] for r in rows] == ["ours, hover", "ours, hover_legacy", "ours, boundary", "ours, edt"]
    assert all(len(r) == 2 and float(r[1]) > 0 for r in rows)


def test_conditions_against_a_peer(bench, monkeypatch, capsys):
    module = bench("conditions")
    monkeypatch.setattr(module, "monai", lambda: lambda labels: np.zeros((2, *labels.shape), np.float32))
    monkeypatch.setattr(sys, "argv", ["conditions", "--side", "48", "--cells", "4", "--repeats", "1"])
    module.main()
    rows = table(capsys.readouterr().out)
    assert rows[0][0] == "MONAI"
    assert rows[0][2:] == ["1.0", "0"]
    assert rows[1][3] == "1"  # the rim of a cell against 0


def test_the_cells_of_conditions_keep_off_the_rim(bench):
    labels = bench("conditions").field(64, 9)
    assert sorted(np.unique(labels)) == list(range(10))
    inner = labels[2:-2, 2:-2]
    assert (inner > 0).sum() == (labels > 0).sum()


def test_calls_take_turns_and_the_first_round_does_not_count(bench, monkeypatch):
    timing, turns, clock = bench("timing"), [], [0.0]
    for name in ("perf_counter", "process_time"):  # which one, the number of threads decides
        monkeypatch.setattr(timing.time, name, lambda: clock[0])

    def call(name: str, took: float) -> None:
        turns.append(name)
        clock[0] += took * len(turns)

    calls = {"a": lambda: call("a", 1.0), "b": lambda: call("b", 10.0)}
    assert timing.interleaved(calls, 2, warm=1) == {"a": [3.0, 5.0], "b": [40.0, 60.0]}
    assert turns == ["a", "b"] * 3


def test_a_speedup_is_the_median_of_the_ratios(bench):
    assert bench("timing").speedup([2.0, 9.0, 100.0], [1.0, 3.0, 1.0]) == 3.0


def test_relative_error(bench):
    assert bench("timing").relative(torch.tensor([1.0, -3.0]), torch.tensor([1.0, -4.0])) == 0.25


def test_a_table_is_markdown(bench, capsys):
    timing = bench("timing")
    timing.head("what", "ms")
    timing.row("a", 1)
    assert capsys.readouterr().out == "| what | ms |\n|---|---|\n| a | 1 |\n"


def test_storages_count_what_is_alive_and_the_most_at_any_time(bench):
    kilo = 250  # float32
    with bench("training").Storages() as storages:
        a = torch.zeros(kilo)
        b = a + 1
        assert storages.live == 2000
        b.view(5, -1).mul_(2)  # a view and an operation in place make nothing
        assert storages.live == 2000
        del b
        assert storages.live == 1000
        c = a + 1
    assert storages.most == 2000
    assert len(c) == kilo


def test_storages_see_what_autograd_keeps(bench):
    x = torch.ones(250, requires_grad=True)
    with bench("training").Storages() as storages:
        y = x.exp().exp()
        assert storages.live == 2000  # the first exp is kept for its backward alone
        del y
        assert storages.live == 0


def test_a_configuration_names_strides_by_the_sides_with_attention(bench):
    configs = bench("reference").CONFIGS
    assert configs["L"].strides == (8, 16, 32)
    assert configs["512"].strides == (16, 32, 64)


def test_a_folder_that_is_no_reference_is_named(bench, tmp_path):
    with pytest.raises(SystemExit, match=r"no checkout of SDM"):
        bench("reference").Reference(tmp_path)
    with pytest.raises(SystemExit, match=r"no checkout of HoVer-Net"):
        bench("conditions").hovernet(tmp_path)


def test_the_given_map_is_zero_where_it_is_absent(bench):
    reference = bench("reference")
    data = reference.guide(reference.CONFIGS["XS"])
    assert data.shape == (16, 32, 32)
    assert data.abs().max() <= 1
    condition = reference.GivenMap(data)
    signal = condition.encode(condition.collate([condition.observe(None)] * 2))
    null = condition.null(signal)
    assert null.data.shape == signal.data.shape
    assert not null.data.any()
    assert null.constant


def test_common_options(bench):
    parser = argparse.ArgumentParser()
    bench("reference").add_options(parser, ["S", "M"], repeats=3)
    args = parser.parse_args(["--reference", "X", "--config", "XS"])
    assert (args.config, args.repeats, args.device) == (["XS"], 3, "cpu")


def test_the_crops_of_the_data_benchmark_make_a_set(bench, tmp_path):
    bench("data").write_set(tmp_path, 3, 48, 1)
    fields = FieldDataset(tmp_path, masks=["nucleus", "cell"])
    assert fields.ids == ["field_000000", "field_000001", "field_000002"]
    for field in (fields[i] for i in range(3)):
        assert field.size == (48, 48)
        assert all(labels.any() for labels in field.masks.values())
        assert field.metadata["assay"]
    assert np.abs(fields[0].image - fields[1].image).max() > 0


def test_the_data_benchmark_runs_commands_in_processes_of_their_own(bench, tmp_path, capfd):
    data = bench("data")
    data.write_set(tmp_path / "set", 2, 48, 1)
    seconds, cpu, own, _ = data.measure(tmp_path, ["export", "set", "out", "--format", "coco"])
    assert (tmp_path / "out/instances.json").is_file()
    assert seconds > 0
    assert cpu > 0
    assert own > 10
    with pytest.raises(SystemExit, match="ended with status 2"):
        data.measure(tmp_path, ["export", "set", "out", "--format", "coco"])
    assert "out is not an empty folder" in capfd.readouterr().err


def test_the_table_of_the_data_benchmark(bench, tmp_path, monkeypatch, capsys):
    data = bench("data")
    monkeypatch.setattr(data, "measure", lambda folder, words: (4.0 / int(words[-1]), 5.0, 50.0, 30.0))
    data.compare(tmp_path, data.Command(("check", "set")), fields=100, counts=(1, 4))
    monkeypatch.setattr(data, "measure", lambda folder, words: (4.0, 5.0, 50.0, 30.0))
    data.compare(tmp_path, data.Command(("synthesise", "set"), parallel=False), fields=100, counts=(1, 4))
    assert table("head\n| a |\n| b |\n" + capsys.readouterr().out) == [
        ["`data check`", "25", "20", "50", "100", "20", "170"],
        ["`data synthesise`", "25", "20", "50", "", "", ""],
    ]


def test_metrics_beside_peers(bench, monkeypatch, capsys):
    module = bench("metrics")
    monkeypatch.setattr(module, "of_monai", lambda masks: {"cell_pq": lambda: 0.25})
    words = ["metrics", "--cells", "16", "--monai-cells", "4", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", words)
    module.main()
    rows = {r[0]: r for r in table(capsys.readouterr().out)}
    assert len(rows) == 8
    for name in ("cell_ap50, 16 cells", "cell_ap75, 16 cells"):
        assert float(rows[name][-1]) < 1e-6
    assert all(float(r[-1]) < 1e-6 for name, r in rows.items() if name.startswith("matching"))
    assert float(rows["cell_pq, 4 cells"][-1]) > 0.1  # of what stands for MONAI here


def test_the_seams_of_tiles_and_of_windows(bench, monkeypatch, capsys):
    module = bench("windows")
    done = {"run": lambda words, **_: argparse.Namespace(stdout=f"{words[-1]}\n")}
    monkeypatch.setattr(module, "subprocess", argparse.Namespace(**done))
    words = ["--side", "96", "--window", "48", "--steps", "1", "--layouts", "1", "--memory-sides", "512,1024"]
    monkeypatch.setattr(sys, "argv", ["windows", *words])
    module.main()
    seams, memory = (f"|\n|\n{part}" for part in capsys.readouterr().out.split("\n\n")[-2:])
    rows = table(seams)
    assert [r[:2] for r in rows[2:]] == [["0: tiles apart", "4"], ["6", "9"], ["12", "9"], ["24", "9"]]
    assert all(float(r[2]) == pytest.approx(float(r[3]), abs=0.006) for r in rows[2:])
    assert table(memory)[2:] == [["512", "25", "512", "3"], ["1024", "121", "1024", "12"]]


def test_a_seam_ratio_by_hand(bench):
    """Steps of 1 at every column and row, and of 3 where windows of 4 meet."""
    ramp = np.cumsum([0, 1, 1, 1, 3, 1, 1, 1])
    image = np.broadcast_to(ramp[:, None] + ramp, (3, 8, 8))
    assert bench("windows").seam_ratio(image, 4, 0) == 3.0
    assert bench("windows").seam_ratio(image, 4, 2) == pytest.approx(np.mean([1, 3, 1]) / 1)


def test_memory_of_a_small_field(bench, capsys):
    module = bench("windows")
    module.measure(64)
    assert float(capsys.readouterr().out) >= 0
