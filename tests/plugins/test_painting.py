"""Painting: the same pairs whatever the batch, traced, in the layout of a data set, or nothing at all."""

import csv
import json

import numpy as np
import pytest

from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.images import read_labels, save_labels
from msdm_kit.core.sample import Appearance, ColourStatistics, recombine
from msdm_kit.plugins.given_colours import parse_colour
from msdm_kit.plugins.painting import paint
from msdm_kit.plugins.pipeline import Pipeline
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.recombination import Recombination
from msdm_kit.plugins.sampling.events import Painted
from msdm_kit.plugins.selection import select
from msdm_kit.plugins.selection_file import save_selection
from msdm_kit.plugins.training import train
from msdm_kit.plugins.weights import find_weights

from ..toy import toy_folder

IDS = ["a", "b", "c", "d"]
TOY = [
    "backbone={channels: 16, multipliers: [1, 2], blocks: 1, head_channels: 8, groups: 8}",
    "injectors.0.hidden=8",
    "data.crop=16",
    "train={steps: 2, batch: 2}",
    "sample={steps: 3, precision: fp32}",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("data"), IDS, ["train", "train", "val", "test"])


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return train(load_recipe("quickstart", TOY), data, tmp_path_factory.mktemp("runs") / "run", device="cpu")


@pytest.fixture(scope="module")
def pipeline(run):
    return Pipeline.load(run, device="cpu")


@pytest.fixture(scope="module")
def fields(data):
    dataset = FieldDataset(data)
    return [dataset[i] for i in range(len(dataset))]


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "settings", [{}, {"guidance": 1.5}, {"solver": "ddpm", "steps": 2}, {"precision": "bf16"}]
)
def test_a_sample_does_not_depend_on_the_batch_it_is_painted_in(pipeline, fields, batch, settings):
    alone = [next(iter(pipeline.sample([field], seed=3, **settings))).image for field in fields]
    together = [s.image for s in pipeline.sample(fields, seed=3, batch=batch, **settings)]
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_seed_and_another_id_are_other_noise(pipeline, fields):
    first, second = (next(iter(pipeline.sample(fields[:1], seed=seed))).image for seed in (0, 1))
    renamed = next(iter(pipeline.sample([recombine(fields[0], id="other")], seed=0))).image
    assert abs(first - second).max() > 0.01
    assert abs(first - renamed).max() > 0.01


def test_colours_of_another_field_and_given_ones_change_the_image_and_not_the_masks(pipeline, fields):
    given = Appearance(
        statistics={kind: ColourStatistics((0.5, -0.5, 0.0), (0.1, 0.1, 0.1)) for kind in ("cell", "nucleus")}
    )
    own = next(iter(pipeline.sample(fields[:1])))
    for colours in (fields[1], given):
        target = recombine(fields[0], appearance=colours)
        other = next(iter(pipeline.sample([target])))
        assert abs(own.image - other.image).max() > 0
        for kind, labels in fields[0].masks.items():
            np.testing.assert_array_equal(other.target.masks[kind], labels)


def test_a_field_of_odd_size_comes_back_in_its_size(pipeline, fields):
    odd = recombine(fields[0])
    cut = {kind: np.ascontiguousarray(labels[:19, :23]) for kind, labels in odd.masks.items()}
    small = type(odd)("odd", cut, metadata=odd.metadata, look=fields[0].appearance)
    assert next(iter(pipeline.sample([small]))).image.shape == (3, 19, 23)


def test_two_fields_of_one_id_are_refused(pipeline, fields):
    with pytest.raises(MsdmError, match="comes twice"):
        list(pipeline.sample([fields[0], fields[0]]))


def test_weights_saved_as_bf16_load_and_are_half_as_large(pipeline, fields, tmp_path):
    pipeline.save(tmp_path / "full.safetensors")
    pipeline.save(tmp_path / "half.safetensors", precision="bf16")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    a, b = (
        next(iter(Pipeline.load(tmp_path / f"{name}.safetensors", device="cpu").sample(fields[:1]))).image
        for name in ("full", "half")
    )
    assert 0 < abs(a - b).mean() < 0.1


def test_the_folder_is_a_data_set_that_traces_every_pair(run, data, tmp_path):
    events = []
    summary = paint(run, data, tmp_path / "out", n=3, device="cpu", seed=5, listener=events.append)
    assert summary.pairs == 3
    assert summary.seen == 0, "by default, fields that were not trained on"
    painted, source = FieldDataset(tmp_path / "out"), FieldDataset(data)
    assert painted.ids == ["c", "d", "c_v2"]
    for i, name in enumerate(["c", "d", "c"]):
        for kind, labels in painted[i].masks.items():
            np.testing.assert_array_equal(labels, source.by_id(name).masks[kind])
    with (tmp_path / "out" / "metadata.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [row["source_morphology"] for row in rows] == ["c", "d", "c"]
    assert {row["seed"] for row in rows} == {"5"}
    assert {row["weights_sha256"] for row in rows} == {Pipeline.load(run, device="cpu").weights_hash}
    assert json.loads(rows[0]["sampling"])["steps"] == 3
    report = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert report["pairs"] == 3
    assert (tmp_path / "out" / "contact-sheet.png").stat().st_size > 1000


@pytest.fixture
def selected(data, tmp_path):
    path = tmp_path / "some.csv"
    save_selection(select(data, "id != 'd'"), path)
    return path


def rows_of(folder):
    with (folder / "metadata.csv").open(newline="") as f:
        return list(csv.DictReader(f))


def test_selected_fields_are_recombined_and_every_source_is_named(run, data, selected, tmp_path):
    both = Recombination(frozenset({"appearance", "metadata"}))
    events = []
    jobs = {"select": selected, "versions": 2, "device": "cpu", "steps": 1, "recombination": both}
    summary = paint(run, data, tmp_path / "out", listener=events.append, **jobs)
    assert (summary.pairs, summary.seen) == (6, 4)
    painted, source, rows = FieldDataset(tmp_path / "out"), FieldDataset(data), rows_of(tmp_path / "out")
    assert painted.ids == ["a_v1", "b_v1", "c_v1", "a_v2", "b_v2", "c_v2"]
    for i, row in enumerate(rows):
        own, donor = source.by_id(row["source_morphology"]), source.by_id(row["source_appearance"])
        assert row["id"].startswith(own.id)
        assert donor.id != own.id
        assert row["source_metadata"] == donor.id
        assert row["assay"] == donor.metadata["assay"]
        assert row["split"] == own.metadata["split"], "no condition reads it: it is the masks'"
        for kind, labels in painted[i].masks.items():
            np.testing.assert_array_equal(labels, own.masks[kind])
    assert len({(row["source_morphology"], row["source_appearance"]) for row in rows}) == 6
    again = paint(run, data, tmp_path / "again", **jobs)
    assert again.figures == summary.figures
    for name in ("metadata.csv", "images/b_v2.png"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_what_is_given_is_in_the_manifest(run, data, tmp_path):
    colours = dict([parse_colour("nucleus=90-110,60,140:20,20,20")])
    given = Recombination(colours=colours, metadata={"assay": "purple"})
    paint(run, data, tmp_path / "out", n=2, device="cpu", steps=1, recombination=given)
    for row in rows_of(tmp_path / "out"):
        assert row["id"] == f"{row['source_morphology']}_v1"
        assert row["source_appearance"] == row["source_metadata"] == row["source_morphology"]
        assert (row["assay"], json.loads(row["given_metadata"])) == ("purple", {"assay": "purple"})
        colour = json.loads(row["given_colours"])["nucleus"]
        assert 90 <= colour["mean"][0] <= 110
        assert colour["std"] == [20, 20, 20]
    paint(run, tmp_path / "out", tmp_path / "next", n=1, device="cpu", steps=1)
    assert rows_of(tmp_path / "next")[0]["given_colours"] == "", "nothing was given to this one"


def test_donors_from_elsewhere(run, data, selected, tmp_path):
    options = Recombination(frozenset({"appearance"}), appearance_from=("d",))
    paint(run, data, tmp_path / "out", select=selected, n=2, device="cpu", steps=1, recombination=options)
    rows = rows_of(tmp_path / "out")
    assert [(r["id"], r["source_appearance"], r["source_metadata"]) for r in rows] == [
        ("a_v1", "d", "a"), ("b_v1", "d", "b")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 2, "versions": 2}, "give one of them"),
        ({"versions": 0}, "--versions 1 or more"),
        ({"select": "SELECTED", "split": "val"}, "--select names the fields"),
        ({"recombination": Recombination(frozenset({"metadata"}), metadata_from=("x",))}, "no field 'x'"),
        ({"recombination": Recombination(metadata={"asay": "x"})}, "did you mean 'assay'"),
        (
            {"recombination": Recombination(colours=dict([parse_colour("cells=1,2,3")]))},
            "did you mean 'cell'",
        ),
    ],
)
def test_a_wrong_recombination_leaves_no_folder(run, data, selected, tmp_path, arguments, message):
    arguments = {key: selected if value == "SELECTED" else value for key, value in arguments.items()}
    with pytest.raises(MsdmError, match=message):
        paint(run, data, tmp_path / "out", device="cpu", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_field_without_another_to_take_from_is_noted(run, data, tmp_path):
    options = Recombination(frozenset({"appearance"}))
    events = []
    paint(run, data, tmp_path / "out", split="val", n=1, device="cpu", steps=1, recombination=options,
          listener=events.append)  # fmt: skip
    assert "no other field to take appearance from: 1 of 1" in " ".join(events[0].notes)


def test_an_interruption_leaves_a_data_set_of_whole_pairs(run, data, tmp_path):
    def stop(event):
        if isinstance(event, Painted) and event.id == "d":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        paint(run, data, tmp_path / "out", n=3, device="cpu", steps=1, listener=stop)
    assert FieldDataset(tmp_path / "out").ids == ["c", "d"]


def test_pairs_of_training_fields_are_counted(run, data, tmp_path):
    assert paint(run, data, tmp_path / "out", n=4, split="all", device="cpu", steps=1).seen == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "--n 1 or more"),
        ({"split": "vall"}, "did you mean 'val'"),
        ({"solver": "ddimm"}, "did you mean 'ddim'"),
        ({"steps": 1001}, "1001"),
        ({"guidance": {"colours": 2.0}}, "did you mean 'colour'"),
        ({"eta": 2.0}, "eta"),
        ({"device": "tpu"}, "no device"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(run, data, tmp_path, arguments, message):
    with pytest.raises(MsdmError, match=message) as caught:
        paint(run, data, tmp_path / "out", **{"device": "cpu", "n": 2, **arguments})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_further_version_never_takes_a_fields_name(run, tmp_path):
    folder = toy_folder(tmp_path / "data", ["a", "a_v2"], ["val", "val"])
    assert paint(run, folder, tmp_path / "two", n=2, device="cpu", steps=1).pairs == 2
    with pytest.raises(MsdmError, match="'a_v2', which is also a further version"):
        paint(run, folder, tmp_path / "out", n=3, device="cpu", steps=1)
    assert not (tmp_path / "out").exists()


def test_metadata_that_the_data_lack_leave_no_folder(run, data, tmp_path):
    bare = tmp_path / "bare"
    toy_folder(bare, IDS, ["train", "train", "val", "test"])
    lines = (bare / "metadata.csv").read_text().replace("assay", "stain")
    (bare / "metadata.csv").write_text(lines)
    with pytest.raises(MsdmError, match="assay"):
        paint(run, bare, tmp_path / "out", n=2, device="cpu")
    assert not (tmp_path / "out").exists()


def test_guidance_on_a_condition_that_was_never_dropped_is_refused(data, tmp_path):
    recipe = load_recipe("quickstart", [*TOY, "conditioners.text.drop=0"])
    run = train(recipe, data, tmp_path / "run", device="cpu")
    with pytest.raises(MsdmError, match="never dropped"):
        Pipeline.load(run, device="cpu").settings(guidance={"text": 2.0})
    with pytest.raises(MsdmError, match="'text', which training never drops"):
        load_recipe("quickstart", [*TOY, "conditioners.text.drop=0", "sample.guidance=2"])


def test_one_field_needs_no_list(pipeline, fields):
    (alone,) = pipeline.sample(fields[0])
    (listed,) = pipeline.sample([fields[0]])
    np.testing.assert_array_equal(alone.image, listed.image)


def test_an_unknown_precision_is_not_saved_as_another(pipeline, tmp_path):
    with pytest.raises(MsdmError, match="no precision 'fp8'"):
        pipeline.save(tmp_path / "weights.safetensors", precision="fp8")
    assert not list(tmp_path.iterdir())


def test_masks_that_look_binary_are_noted(run, data, tmp_path):
    binary = tmp_path / "binary"
    toy_folder(binary, IDS, ["train", "train", "val", "test"])
    for path in (binary / "nuclei").iterdir():
        save_labels(path, (read_labels(path) > 0) * 255)
    events = []
    paint(run, binary, tmp_path / "out", n=1, device="cpu", steps=1, listener=events.append)
    assert "one label alone" in " ".join(events[0].notes)


def test_a_folder_of_pairs_does_not_hide_a_model_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo" / "images").mkdir(parents=True)
    assert find_weights("demo").parent.parent.name == "models"
    with pytest.raises(MsdmError, match=r"holds no weights\.safetensors"):
        find_weights(tmp_path / "demo" / "images")
