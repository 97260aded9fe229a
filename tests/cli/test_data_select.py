"""`msdm-kit data select`, and `msdm-kit sample` with what it saved."""

import csv
import json
import re
import shlex

import pytest

from msdm_kit import FieldDataset

from .test_mistakes import refuses


def test_a_table_a_file_and_the_next_command(msdm, data, tmp_path):
    out = tmp_path / "some.csv"
    words = ("--where", "indication == 'left' and mean_nucleus_area > 60", "--sort", "-std_nucleus_area")
    outcome = msdm("data", "select", data, *words, "--out", out)
    assert (outcome.code, outcome.err) == (0, "")
    assert "3 of 6 fields match" in outcome.out
    assert "indication, selected/all: left 3/3, right 0/3" in outcome.out
    # 8 x 7 and 8 x 9 pixels
    assert re.search(r"^mean_nucleus_area +selected +3 +0 +64 +0 +64 +64 +64$", outcome.out, re.M)
    assert re.search(r"^std_nucleus_area +all +6 +0 +8 +0 +8 +8 +8$", outcome.out, re.M)
    assert f"wrote {out} (3 ids) and {tmp_path / 'some.selection.json'}" in outcome.out
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["f1", "f3", "f5"]
    assert rows[0] == {
        "id": "f1", "indication": "left", "mean_nucleus_area": "64", "std_nucleus_area": "8"
    }  # fmt: skip
    assert f"paint with: msdm-kit sample RUN --data {data} --select {out} --out DIR" in outcome.out


def test_limits_splits_processes_and_notes(msdm, data):
    text = msdm("data", "select", data, "--split", "val", "--limit", "1", "--workers", "2").out
    assert "2 of 2 fields of split val match\nthe first 1 of them are taken" in text
    text = (data / "metadata.csv").read_text().replace("indication", "count_nucleus")
    (data / "metadata.csv").write_text(text)
    assert "note: count_nucleus is measured" in msdm("data", "select", data, "--sort", "count_nucleus").out


def test_the_names_are_listed(msdm, data):
    lines = msdm("data", "select", data, "--list").out.splitlines()
    assert {"mean_nucleus_eccentricity", "density_nucleus", "height"} <= set(lines)
    assert "nucleus.eccentricity (within a function)" in lines
    assert "indication (texts of the manifest)" in lines


def test_fields_are_selected_by_the_classes_of_their_instances(msdm, data, tmp_path):
    lines = ("id,kind,label,class", "f1,nucleus,1,tumor", "f2,nucleus,1,stroma")
    (data / "instances.csv").write_text("\n".join(lines) + "\n")
    listed = msdm("data", "select", data, "--list").out
    assert "nucleus.class (within a function; texts: stroma, tumor)" in listed
    flags = ("--where", "any(nucleus.class == 'tumor')", "--out", tmp_path / "tumor.csv")
    assert msdm("data", "select", data, *flags).code == 0
    assert (tmp_path / "tumor.csv").read_text().splitlines()[1].startswith("f1,")
    out = msdm("data", "select", data, "--where", "any(nucleus.class == 'tumour')").out
    assert "note: no nucleus has the class 'tumour'; did you mean 'tumor'?" in out
    assert "0 of " in out
    outcome = msdm("data", "select", data, "--where", "nucleus.class == 'tumor'")
    assert outcome.code == 2
    assert "write it within a function, such as fraction(nucleus.class == 'stroma')" in outcome.err


def test_mistakes(msdm, data, tmp_path):
    out = tmp_path / "out" / "some.csv"
    for extra, named in [
        (("--where", "mean_nucleus_aera > 3"), "did you mean 'mean_nucleus_area'?"),
        (("--where", "indication = 'left'"), "to compare, write =="),
        (("--where", "count_nucleus > 99"), "no field matches"),
        (("--sort", "indication"), "here a number is needed"),
        (("--split", "tests"), "no row of split 'tests'"),
        (("--limit", "0"), "--limit"),
        (("--workers", "0"), "--workers"),
        (("--out", str(tmp_path / "some.txt")), "is a CSV file"),
        (("--out", str(data / "metadata.csv")), "was not made by a selection"),
    ]:
        outcome = msdm("data", "select", data, "--out", out, *extra)
        refuses(outcome, named)
        assert not out.parent.exists(), extra
    refuses(msdm("data", "select", tmp_path / "nowhere"), "no data folder")
    (data / "nuclei" / "f2.png").write_bytes(b"damaged")
    refuses(msdm("data", "select", data, "--where", "count_nucleus > 1"), "nuclei/f2.png")


@pytest.fixture
def run(msdm, data, recipe, tmp_path):
    folder = tmp_path / "run"
    assert msdm("train", recipe, "--data", data, "--out", folder, "--set", "train.steps=1").code == 0
    return folder


def test_from_a_selection_to_pairs_in_the_colours_of_others(msdm, data, run, tmp_path):
    chosen, out = tmp_path / "some.csv", tmp_path / "out"
    msdm("data", "select", data, "--where", "split == 'train'", "--limit", "3", "--out", chosen)
    flags = f"--select {chosen} --versions 2 --recombine appearance,metadata --separate-donors --steps 1"
    outcome = msdm("sample", run, "--data", data, "--out", out, *shlex.split(flags))
    assert (outcome.code, outcome.err) == (0, "")
    made = FieldDataset(out, masks=["nucleus"])
    assert made.ids == ["f0_v1", "f1_v1", "f2_v1", "f0_v2", "f1_v2", "f2_v2"]
    for row in made.rows:
        own = row["source_morphology"]
        assert {row["source_appearance"], row["source_metadata"]} <= {"f0", "f1", "f2"} - {own}
        assert (out / "nuclei" / f"{row['id']}.png").stat().st_size > 0


def test_donors_colours_and_metadata_by_hand(msdm, data, run, tmp_path):
    msdm("data", "select", data, "--where", "id == 'f4'", "--out", tmp_path / "four.csv")
    out = tmp_path / "out"
    flags = f"--n 1 --appearance-from {tmp_path / 'four.csv'} --metadata-from f1,f3 --steps 1 --split train"
    given = "--colour nucleus=90,60,130-150 --set-metadata indication=left"
    outcome = msdm("sample", run, "--data", data, "--out", out, *shlex.split(flags), *shlex.split(given))
    assert (outcome.code, outcome.err) == (0, "")
    (row,) = FieldDataset(out, masks=["nucleus"]).rows
    assert (row["id"], row["source_appearance"], row["indication"]) == ("f0_v1", "f4", "left")
    assert row["source_metadata"] in ("f1", "f3")
    assert json.loads(row["given_colours"])["nucleus"]["mean"][:2] == [90, 60]


def test_mistakes_of_recombining(msdm, data, run, tmp_path):
    out, chosen = tmp_path / "out", tmp_path / "some.csv"
    msdm("data", "select", data, "--out", chosen)
    for extra, named in [
        (("--recombine", "colour"), "cannot recombine 'colour'"),
        (("--recombine", ""), "legal: appearance, metadata"),
        (("--select", str(tmp_path / "no.csv")), "no.csv is missing"),
        (("--select", str(chosen), "--split", "val"), "--select names the fields"),
        (("--n", "2", "--versions", "2"), "give one of them"),
        (("--versions", "0"), "--versions"),
        (("--appearance-from", "f9"), "no field 'f9'"),
        (("--colour", "nucleus=300,0,0"), "'300' is no mean"),
        (("--colour", "nuclei=30,0,0"), "did you mean 'nucleus'"),
        (("--set-metadata", "left"), "write COLUMN=VALUE"),
        (("--set-metadata", "indication=nowhere"), "nowhere"),
        (("--set-metadata", "tissue=left"), "no column 'tissue'"),
        (("--solver-sweep", "--versions", "2"), "a solver sweep paints no pairs"),
    ]:
        refuses(msdm("sample", run, "--data", data, "--out", out, *extra), named)
        assert not out.exists(), extra
    with (data / "metadata.csv").open("a") as file:
        file.write("f0_copy,train,left\n")
    refuses(msdm("sample", run, "--data", data, "--out", out, "--select", chosen), "is not what it was then")
