"""`msdm-kit data check`, `data stats` and `data derive-cells`."""

import csv
import json
import re
import shutil
import signal

import numpy as np
import pytest

from msdm_kit import FieldDataset

from ..cells import cell_folder, load, save
from .test_mistakes import refuses


@pytest.fixture
def fields(tmp_path):
    return cell_folder(tmp_path / "fields")


def break_it(root):
    """An error that a repair mends, a leak that it does not, and 24 specks."""
    mask = load(root / "cells/f1.png")
    mask[0, :24] = np.arange(100, 124)
    save(root / "cells/f1.png", mask)
    save(root / "cells/f2.png", np.zeros_like(mask))
    shutil.copy(root / "images/f3.png", root / "images/f9.png")


def test_a_clean_set(msdm, fields):
    outcome = msdm("data", "check", fields)
    assert (outcome.code, outcome.out, outcome.err) == (0, "10 fields: nothing is wrong\n", "")


def test_warnings_alone_end_with_0(msdm, fields):
    shutil.copy(fields / "images/f1.png", fields / "images/f3.png")
    outcome = msdm("data", "check", fields)
    assert outcome.code == 0
    assert "warning: same image twice (duplicate): 1\n" in outcome.out
    assert "images/f3.png" in outcome.out
    assert outcome.out.endswith("10 fields: 0 errors, 1 warning\n")


def test_errors_end_with_1_and_are_listed_by_kind(msdm, fields, tmp_path):
    break_it(fields)
    outcome = msdm("data", "check", fields, "--json", tmp_path / "found.json", "--workers", "2")
    assert (outcome.code, outcome.err) == (1, "")
    heads = re.findall(r"^(error|warning): .* \(([\w-]+)\): (\d+)$", outcome.out, re.M)
    assert heads == [
        ("error", "empty-mask", "1"), ("error", "leak-image", "1"), ("warning", "speck", "24")
    ]  # fmt: skip
    assert outcome.out.count("cells/f1.png") == 20
    assert "and 4 more: see --json" in outcome.out
    assert "10 fields: 2 errors, 24 warnings" in outcome.out
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert len(found) == 26
    assert {"severity", "kind", "file", "instance", "value", "legal", "todo"} == set(found[0])


def test_fix_writes_a_copy_and_a_log(msdm, fields, tmp_path):
    break_it(fields)
    before = {p: p.read_bytes() for p in fields.rglob("*.*")}
    out = tmp_path / "fixed"
    outcome = msdm("data", "check", fields, "--fix", out)
    assert {p: p.read_bytes() for p in fields.rglob("*.*")} == before
    assert outcome.code == 1, "the leak is left"
    assert "speck dropped: 24\n" in outcome.out
    assert f"wrote 10 fields to {out}; every change is in {out / 'changes.csv'}" in outcome.out
    assert "the copy has 1 error, 1 warning; check it for the list" in outcome.out
    with open(out / "changes.csv", encoding="utf-8", newline="") as handle:
        assert len(list(csv.reader(handle))) == 1 + 25
    again = msdm("data", "check", out)
    assert "(leak-image): 1" in again.out
    assert "(missing-mask): 1" in again.out
    shutil.copy(fields / "images/f2.png", fields / "images/f9.png")
    assert len(FieldDataset(out, masks=["nucleus"])) == 10


def test_after_a_fix_without_leaks_the_status_is_0(msdm, fields, tmp_path):
    save(
        fields / "images/f1.png",
        np.dstack([load(fields / "images/f1.png"), np.full((48, 48), 255, np.uint8)]),
    )
    assert msdm("data", "check", fields).code == 1
    assert msdm("data", "check", fields, "--fix", tmp_path / "fixed").code == 0
    assert msdm("data", "check", tmp_path / "fixed").out == "10 fields: nothing is wrong\n"


def test_a_terminal_is_not_commanded_by_file_names(msdm, fields):
    save(fields / "images/x\x1b[31m.png", load(fields / "images/f1.png"))
    outcome = msdm("data", "check", fields)
    assert "unlisted-file" in outcome.out
    assert "\x1b" not in outcome.out


def test_mistakes(msdm, fields, tmp_path):
    for extra, named in [
        (("--json", str(tmp_path / "found.txt")), "written to .json or .csv"),
        (("--fix", str(fields)), "is not an empty folder"),
        (("--fix", str(fields / "out")), "lies in"),
        (("--speck", "-1"), "--speck"),
    ]:
        refuses(msdm("data", "check", fields, *extra), named)
    refuses(msdm("data", "check", tmp_path / "nowhere"), "no data folder")
    refuses(msdm("data", "stats", fields, "--group", "asay"), "did you mean 'assay'")
    refuses(msdm("data", "derive-cells", fields, tmp_path / "out"), "has cells in cells/")
    (fields / "metadata.csv").write_text("name\nf1\n")
    for command in (("check", fields), ("stats", fields), ("derive-cells", fields, tmp_path / "out")):
        refuses(msdm("data", *command), "has no id column")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fields"]


def test_statistics_in_a_table_and_on_a_page(msdm, fields, tmp_path):
    page = tmp_path / "page.html"
    outcome = msdm("data", "stats", fields, "--group", "assay", "--html", page)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].split()[:4] == ["group", "kind", "fields", "instances"]
    assert lines[1].startswith("stain 0  cell          5         20")
    assert len(lines) == 6
    assert lines[-1] == f"wrote {page}"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert msdm("data", "stats", fields).out.splitlines()[1].startswith("all    cell         10         40")


def test_cells_are_derived(msdm, fields, tmp_path):
    shutil.rmtree(fields / "cells")
    out = tmp_path / "out"
    outcome = msdm("data", "derive-cells", fields, out, "--distance", "1.5")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"10 fields with 40 cells, 1.5 pixels beyond their nuclei, in {out}\n"
    made = FieldDataset(out)
    assert {(row["cells_derived"], row["cell_expand_px"]) for row in made.rows} == {("1", "1.5")}
    assert msdm("data", "check", out).out == "10 fields: nothing is wrong\n"


SLOW = """\
import time
from msdm_kit.plugins import repairing
whole = repairing.repair_field
def slow(*arguments):
    print("one", flush=True)
    time.sleep(0.3)
    return whole(*arguments)
repairing.repair_field = slow
from msdm_kit.cli.main import main
main()
"""


def test_ctrl_c_leaves_nothing(process, fields, tmp_path):
    started = process("data", "check", fields, "--fix", tmp_path / "made/out", python=SLOW)
    for line in started.stdout:
        if line == "one\n":
            started.send_signal(signal.SIGINT)
            break
    out, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (130, "stopped\n"), out
    assert list((tmp_path / "made").iterdir()) == []
