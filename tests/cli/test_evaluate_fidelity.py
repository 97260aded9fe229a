"""`msdm-kit evaluate fidelity` as a user runs it, on fields of the built-in set."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msdm_kit.core.manifest import read_manifest, write_manifest
from msdm_kit.plugins.data import data_folder

GROUPS = ("purple-on-white", "purple-on-lilac")
EACH = 5


def copied(out: Path, rows: list[dict[str, str]], prefix: str = "", change=None) -> Path:
    """Fields of the built-in set, cut to 96 x 96, as a data folder of their own."""
    root = data_folder("histology-nuclei")
    for folder in ("images", "nuclei"):
        (out / folder).mkdir(parents=True)
        for row in rows:
            picture = np.asarray(Image.open(root / folder / f"{row['id']}.png"))[:96, :96]
            if change is not None and folder == "images":
                picture = change(picture)
            Image.fromarray(np.ascontiguousarray(picture)).save(out / folder / f"{prefix}{row['id']}.png")
    write_manifest(
        out / "metadata.csv",
        [{"id": prefix + r["id"], "split": r["split"], "assay": r["assay"]} for r in rows],
    )
    return out


def _has_nuclei(root: Path, id: str) -> bool:
    return bool(np.asarray(Image.open(root / "nuclei" / f"{id}.png"))[:96, :96].any())


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> tuple[Path, Path]:
    """Ten real fields, and ten that stand for painted ones, of which one is a copy."""
    root = data_folder("histology-nuclei")
    rows = [row for row in read_manifest(root / "metadata.csv") if row["split"] == "train"]
    by_group = [[r for r in rows if r["assay"] == g and _has_nuclei(root, r["id"])] for g in GROUPS]
    real = [row for group in by_group for row in group[:EACH]]
    other = [row for group in by_group for row in group[EACH : 2 * EACH]]
    folder = tmp_path_factory.mktemp("sets")
    painted = [*other[:-1], real[0]]
    return copied(folder / "real", real), copied(folder / "painted", painted, "syn-")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MSDM_KIT_CACHE", str(tmp_path_factory.getbasetemp() / "fidelity-cache"))


def arguments(sets, out: Path, *more: str) -> list[str | Path]:
    quick = ["--permutations", "19", "--repeats", "2", "--projection", "pca"]
    return ["evaluate", "fidelity", *sets, "--out", out, *quick, *more]


def test_from_two_folders_to_a_report(msdm, sets, tmp_path):
    outcome = msdm(*arguments(sets, tmp_path / "out", "--group", "assay"))
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].startswith("Wasserstein distance W1 of matching groups ")
    assert "permutation test p = " in lines[0]
    assert any(line.startswith("1 of 10 synthetic fields are copies of real ones") for line in lines)
    assert any(line.startswith("Mask adherence ") for line in lines)
    assert any(line.startswith("note: Fréchet distance (FID): needs at least 2,000 fields") for line in lines)
    assert lines[-1].startswith(f"wrote {tmp_path / 'out' / 'report.html'}")
    kept = json.loads((tmp_path / "out/fidelity.json").read_text(encoding="utf-8"))
    assert kept["fields"] == {"real": 10, "synthetic": 10}
    assert kept["matrix"]["real"] == dict.fromkeys(sorted(GROUPS), EACH)
    [copy] = kept["memorisation"]["copies"]
    with open(tmp_path / "out/fields.csv", encoding="utf-8") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert rows[copy]["alike"] == copy.removeprefix("syn-")
    assert float(rows[copy]["texture"]) == pytest.approx(1)
    assert float(rows[copy]["distance"]) == pytest.approx(0, abs=1e-3)
    with open(tmp_path / "out/matrix.csv", encoding="utf-8") as file:
        matrix = list(csv.reader(file))
    assert [row[0] for row in matrix[1:]] == sorted(GROUPS) == matrix[0][1:]
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert copy in page
    assert kept["settings"]["embedder"] == {"type": "descriptors", "min_area": 16}


def test_features_are_kept_and_the_second_run_says_the_same(msdm, sets, tmp_path, monkeypatch):
    first = msdm(*arguments(sets, tmp_path / "one"))
    monkeypatch.setattr(
        "msdm_kit.plugins.embedders.descriptors.describe", lambda *a: pytest.fail("embedded again")
    )
    second = msdm(*arguments(sets, tmp_path / "two"))
    assert second.code == 0
    assert second.out.replace("two", "one") == first.out
    one, two = (
        json.loads((tmp_path / n / "fidelity.json").read_text(encoding="utf-8")) for n in ("one", "two")
    )
    assert one == two


def test_a_split_is_compared_and_copies_are_looked_for_in_all(msdm, sets, tmp_path):
    real, painted = sets
    rows = read_manifest(real / "metadata.csv")
    for i, row in enumerate(rows):
        row["split"] = "train" if i < 4 else "val"
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for folder in ("images", "nuclei"):
        (mixed / folder).symlink_to(real / folder)
    write_manifest(mixed / "metadata.csv", rows)
    assert msdm(*arguments((mixed, painted), tmp_path / "out", "--split", "val")).code == 0
    kept = json.loads((tmp_path / "out/fidelity.json").read_text(encoding="utf-8"))
    assert kept["fields"]["real"] == 6
    assert len(kept["memorisation"]["copies"]) == 1  # of a field of the training split
    assert msdm(*arguments((mixed, painted), tmp_path / "ref", "--reference", str(real))).code == 0


def test_a_random_network_must_be_asked_for(msdm, sets, tmp_path):
    outcome = msdm(*arguments(sets, tmp_path / "out", "--embedder", "random:width=4"))
    assert outcome.code == 2
    assert "distances mean nothing" in outcome.err
    assert "--allow-random" in outcome.err
    outcome = msdm(*arguments(sets, tmp_path / "out", "--embedder", "random:width=4", "--allow-random"))
    assert outcome.code == 0
    assert "note: The embedder is a random network: no distance here means anything." in outcome.out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--group", "asay"], "no column 'asay' to group by; did you mean 'assay'"),
        (["--group", ","], "names no column"),
        (["--embedder", "descriptor"], "no embedder 'descriptor'; did you mean 'descriptors'"),
        (["--embedder", "descriptors:area=3"], "area"),
        (["--embedder", "timm:model=local-dir:/nowhere"], "has no config.json"),
        (["--distance", "wasser"], "no distance 'wasser'; did you mean 'wasserstein'"),
        (["--projection", "tsne"], "no projection 'tsne'"),
        (["--split", "test"], "has no row of split 'test'"),
        (["--device", "tpu9"], "no device 'tpu9'"),
        (["--reference", "/nowhere"], "no data folder '/nowhere'"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(msdm, sets, tmp_path, more, says):
    outcome = msdm(*arguments(sets, tmp_path / "out", *more))
    assert outcome.code == 2
    assert says in outcome.err
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_refused_before_any_work(msdm, sets, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("")
    outcome = msdm(*arguments(sets, tmp_path / "out"))
    assert outcome.code == 2
    assert "is not an empty folder" in outcome.err


def test_a_folder_in_one_that_is_read_is_refused(msdm, sets):
    for folder in sets:
        outcome = msdm(*arguments(sets, folder / "fidelity"))
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert f"fidelity lies in {folder}, which is read" in outcome.err
        assert not (folder / "fidelity").exists()


def test_fields_of_which_some_lack_masks_are_compared_without_adherence(msdm, sets, tmp_path):
    real, painted = sets
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "images").symlink_to(painted / "images")
    (bare / "metadata.csv").write_bytes((painted / "metadata.csv").read_bytes())
    outcome = msdm(*arguments((real, bare), tmp_path / "out"))
    assert outcome.code == 0
    assert "Mask adherence" not in outcome.out
