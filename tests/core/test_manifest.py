"""Reading and writing the manifest."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.manifest import check_ids, read_manifest, select_split, write_manifest


def refuse(path, *words):
    with pytest.raises(MsdmError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


def test_known_file(tmp_path):
    path = tmp_path / "metadata.csv"
    path.write_bytes(b'\xef\xbb\xbfid,split,note\r\na b-1.x,train,"x, ""y"""\r\n\r\n\xc3\xa9_2,val,\r\n')
    assert read_manifest(path) == [
        {"id": "a b-1.x", "split": "train", "note": 'x, "y"'},
        {"id": "é_2", "split": "val", "note": ""},
    ]


def test_columns_are_the_union_in_the_order_first_seen(tmp_path):
    path = tmp_path / "metadata.csv"
    write_manifest(path, [{"id": "a", "x": "1"}, {"y": "2", "id": "b"}])
    assert path.read_bytes() == b"id,x,y\na,1,\nb,,2\n"
    assert [p.name for p in tmp_path.iterdir()] == ["metadata.csv"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True), min_size=1, max_size=4, unique=True),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=4, max_size=4),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda c: c.strip() and c != "id"),
)
def test_what_is_written_is_read_back(tmp_path, ids, values, column):
    rows = [{"id": id, column: value} for id, value in zip(ids, values, strict=False)]
    write_manifest(tmp_path / "m.csv", rows)
    assert read_manifest(tmp_path / "m.csv") == rows


def test_missing(tmp_path):
    refuse(tmp_path / "metadata.csv", "missing")


def test_a_folder_in_its_place(tmp_path):
    refuse(tmp_path, "cannot read")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b"id,split\n", ["no rows"]),
        (b"name,split\na,b\n", ["no id column", "'name'"]),
        (b"id;split\na;b\n", ["no id column", "'id;split'", "commas"]),
        (b",id\n0,a\n", ["column 1 has no name"]),
        (b"id,x,x\na,1,2\n", ["'x'", "2 times"]),
        (b"id,x\na\n", ["line 2", "1 values for 2 columns"]),
        (b"id,x\na,1\nb,1,2\n", ["line 3", "3 values for 2 columns"]),
        (b"id\na\nb\na\n", ["line 4", "'a'", "line 2"]),
        ("id,x\na,é\n".encode("latin-1"), ["not UTF-8", "0xe9 at offset 7"]),
        ("id\na\n".encode("utf-16"), ["not UTF-8"]),
        (b'id\n"a"b\n', ["line 2", "CSV"]),
        (b'id\n"a\n', ["CSV"]),
    ],
)
def test_wrong_files(tmp_path, content, words):
    path = tmp_path / "metadata.csv"
    path.write_bytes(content)
    refuse(path, *words)


@pytest.mark.parametrize(
    "id",
    [
        "../a",
        "a/b",
        "a\\b",
        "/a",
        "..",
        ".",
        ".a",
        "a..b",
        "",
        " a",
        "a ",
        "a\tb",
        "a\nb",
        "a\0b",
        "C:a",
        "x" * 201,
    ],
)
def test_ids_that_cannot_name_a_file(tmp_path, id):
    path = tmp_path / "metadata.csv"
    path.write_text(f'id,x\n"{id}",1\n', newline="")
    refuse(path, "cannot name a file")
    with pytest.raises(MsdmError, match="cannot name a file"):
        write_manifest(tmp_path / "new.csv", [{"id": id}])
    assert not (tmp_path / "new.csv").exists()


def test_no_rows_to_write(tmp_path):
    with pytest.raises(MsdmError, match="no rows to write"):
        write_manifest(tmp_path / "m.csv", [])


def test_splits():
    rows = [{"id": "a", "split": "train"}, {"id": "b", "split": "val"}]
    assert select_split(rows, "val", "m.csv") == rows[1:]
    assert select_split(rows, None, "m.csv") == select_split(rows, "all", "m.csv") == rows
    with pytest.raises(
        MsdmError, match=r"m\.csv has no row of split 'tran': did you mean 'train'\? legal: all, t"
    ):
        select_split(rows, "tran", "m.csv")
    with pytest.raises(MsdmError, match=r"m\.csv has no split column.*--split all"):
        select_split([{"id": "a"}], "train", "m.csv")


def test_ids_are_checked_before_there_is_a_file():
    check_ids(["a", "b"], "m.csv")
    with pytest.raises(MsdmError, match=r"m\.csv: id 'a' is there too"):
        check_ids(["a", "b", "a"], "m.csv")
    with pytest.raises(MsdmError, match=r"m\.csv: id of 201 characters cannot name a file"):
        check_ids(["x" * 201], "m.csv")
