"""Manifests that grow: whatever way a process ends, every row that was added is read back, and no other."""

import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.journal import GrowingCsv, Journal, begin_journal, read_journal, whole_rows
from msdm_kit.core.manifest import read_manifest, write_manifest

ROWS = [{"id": "a", "assay": "é", "note": 'x, "y"'}, {"id": "b", "assay": "", "note": "two\nlines"}]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True), min_size=1, max_size=4, unique=True),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=4, max_size=4),
    st.integers(0, 4),
)
def test_rows_one_by_one_are_read_back_at_any_time(tmp_path, ids, values, begun):
    rows = [{"id": id, "x": value} for id, value in zip(ids, values, strict=False)]
    path = tmp_path / "grown.csv"
    begin_journal(path, rows[:begun])
    assert read_journal(path) == rows[:begun]
    with Journal(path, ids[:begun]) as journal:
        for done, row in enumerate(rows[begun:], begun + 1):
            journal.add({"x": row["x"], "id": row["id"]})
            assert read_journal(path) == rows[:done]
            assert read_manifest(path) == rows[:done]


@pytest.mark.parametrize(
    "rows", [ROWS, [{"id": "a", "empty": ""}, {"id": "b", "empty": ""}], [{"id": "a"}, {"id": "b"}]]
)
def test_of_a_file_that_was_cut_off_anywhere_the_whole_rows_are_read(tmp_path, rows):
    path, cut = tmp_path / "m.csv", tmp_path / "cut.csv"
    with Journal(path) as journal:
        ends = []
        for row in rows:
            journal.add(row)
            ends.append(path.stat().st_size)
    data = path.read_bytes()
    for end in range(len(data) + 1):
        cut.write_bytes(data[:end])
        whole = sum(end >= at for at in ends)
        assert read_journal(cut) == rows[:whole]
        try:  # as a data set: refused, or of whole rows
            assert read_manifest(cut) in (rows[:1], rows)
        except MsdmError:
            assert whole < 2


def test_what_a_power_cut_leaves_of_a_row(tmp_path):
    path = tmp_path / "m.csv"
    begin_journal(path, ROWS)
    whole = path.read_bytes()
    for rest in (b"\0" * 40, b'"x', b'"two\nlines', b'"say ""so""\nand '):
        path.write_bytes(whole + rest)
        assert read_journal(path) == ROWS
    path.write_bytes(whole[:30] + b'"' + whole[30:])
    with pytest.raises(MsdmError, match=r"m\.csv"):
        read_journal(path)


@given(st.lists(st.lists(st.text("a\n\"',"), min_size=1, max_size=3), min_size=1, max_size=4))
def test_a_row_ends_where_its_quotes_are_closed(rows):
    data, ends = b"", [0]
    for row in rows:
        data += (",".join('"' + value.replace('"', '""') + '"' for value in row) + "\n").encode()
        ends.append(len(data))
    for end in range(len(data) + 1):
        assert whole_rows(io.BytesIO(data[:end])) == max(at for at in ends if at <= end)


def test_rows_that_do_not_fit_are_refused_and_the_others_stay(tmp_path):
    path = tmp_path / "new" / "m.csv"
    with Journal(path) as journal:
        journal.add(ROWS[0])
        for row, message in (
            (ROWS[0], "'a' was added before"),
            ({"id": "c"}, "column 'assay' is in some rows only"),
            ({**ROWS[1], "x": ""}, "column 'x' is in some rows only"),
            ({**ROWS[1], "id": "../c"}, "cannot name a file"),
            ({"assay": "x", "note": ""}, "cannot name a file"),
        ):
            with pytest.raises(MsdmError, match=message):
                journal.add(row)
    assert read_journal(path) == ROWS[:1]
    with pytest.raises(MsdmError, match="column 'assay' is in some rows only"):
        begin_journal(path, [*ROWS, {"id": "c", "x": ""}])
    with Journal(path, ["a"]) as journal, pytest.raises(MsdmError, match="'assay' is in some rows only"):
        journal.add({"id": "b", "x": ""})


def test_a_finished_manifest_is_gone_on_with(tmp_path):
    write_manifest(tmp_path / "m.csv", ROWS)
    assert read_journal(tmp_path / "m.csv") == ROWS
    begin_journal(tmp_path / "m.csv", [])
    assert not list(tmp_path.iterdir())
    with Journal(tmp_path / "m.csv"):
        pass
    assert not list(tmp_path.iterdir()), "without rows there is no file"
    assert read_journal(tmp_path / "m.csv") == []


def test_a_full_disc_leaves_the_rows_before(tmp_path, monkeypatch):
    path = tmp_path / "m.csv"
    begin_journal(path, ROWS[:1])
    with Journal(path, ["a"]) as journal:
        journal.add({**ROWS[1], "id": "c"})
        before = path.read_bytes()
        resource = pytest.importorskip("resource")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
        try:
            with pytest.raises(MsdmError, match=r"cannot write .*m\.csv: .*the space on the disc"):
                journal.add(ROWS[1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before
        journal.add(ROWS[1])
    assert [row["id"] for row in read_journal(path)] == ["a", "c", "b"]


def test_columns_are_written_once(tmp_path):
    path = tmp_path / "new" / "x.csv"
    for rows in ([["1", "2"]], [], [["3", 'a"b']]):
        file = GrowingCsv(path, ["p", "q"])
        file.add(rows)
        file.close()
    assert path.read_text() == '"p","q"\n"1","2"\n"3","a""b"\n'
