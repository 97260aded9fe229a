"""Classes of instances: they are asked for in expressions, and follow their instances wherever masks go."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.images import read_labels
from msdm_kit.core.sample import Sample
from msdm_kit.plugins.expressions import condition, names_classes, number
from msdm_kit.plugins.instance_index import InstanceIndex
from msdm_kit.plugins.instances import INSTANCES, InstanceFile, InstanceJournal, present, read_instances
from msdm_kit.plugins.mask_operations.apply import load_operations, operate
from msdm_kit.plugins.painting import paint
from msdm_kit.plugins.properties import Field
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.recombination import Recombination
from msdm_kit.plugins.sampling.events import Painted
from msdm_kit.plugins.selection import select
from msdm_kit.plugins.shape_library import read_shapes
from msdm_kit.plugins.synthesis import lay_out, synthesise
from msdm_kit.plugins.training import train
from msdm_kit.plugins.vocabulary import Vocabulary

from ..toy import toy_folder

NAMES = {"nucleus": {"tumor", "stroma", "l'x"}}
WORDS = Vocabulary.of([{"id": "a", "grade": "tumor"}], ("cell", "nucleus"), NAMES)
LABELS = np.array([[0, 3, 3, 5, 9, 9, 9, 12]], np.int32)
ASKED = {"nucleus": {3: "tumor", 5: "stroma", 9: "tumor", 40: "gone"}}
"""Label 12 has no class."""


def write_classes(root, classes):
    with InstanceFile(root) as file:
        for id, named in classes.items():
            file.add(id, named)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("count(nucleus.class == 'tumor')", 2),
        ("fraction(nucleus.class == 'tumor')", 0.5),
        ("count(nucleus.class != 'tumor')", 1),
        ("count(nucleus.class == '')", 1),
        ("count(nucleus.class in ['stroma', 'tumor'])", 3),
        ("count(nucleus.class not in ['stroma'])", 2),
        ("count(nucleus.class == 'tumor' and nucleus.area > 2)", 1),
        ("count(nucleus.class == grade)", 2),
        ("count('s' < nucleus.class < 't')", 1),
        ("count( nucleus . class == 'tumor' )", 2),
        ("count(nucleus.class == 'nucleus.class')", 0),
    ],
)
def test_the_class_of_every_instance(text, wanted):
    asked = Field(None, {"id": "a", "grade": "tumor"}, classes=ASKED, _labels={"nucleus": LABELS})
    assert number(text, WORDS).value(asked) == wanted
    assert names_classes(text)
    assert asked.missing == (text != "count(nucleus.class == '')")


@pytest.mark.parametrize(("text", "wanted"), [("any", True), ("all", False)])
def test_conditions_of_all_instances(text, wanted):
    asked = Field(None, {"id": "a", "grade": ""}, classes=ASKED, _labels={"nucleus": LABELS})
    assert condition(f"{text}(nucleus.class == 'tumor')", WORDS).value(asked) == wanted
    nothing = Field(None, {"id": "a"}, classes={}, _labels={"nucleus": np.zeros((2, 2), np.int32)})
    assert not condition("any(nucleus.class == 'tumor')", WORDS).value(nothing)


def test_what_is_measured_is_called_as_it_is_written():
    node = condition("fraction(nucleus.class == 'a.class') > 0.1", WORDS)
    assert [term.label for term in node.named()] == ["fraction(nucleus.class == 'a.class')"]
    assert not names_classes("assay == 'nucleus.class' or \"x.class\" == class_1.area")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nucleus.class == 'tumor'", "at character 1 .*near .nucleus.class == .*: nucleus.class has a value"),
        ("any(cell.class == 'x')", "at character 5 .*: no cell has a class: instances.csv has .* nucleus"),
        ("any(nucleus.clas == 'x')", "no property 'clas' of instances; did you mean 'class'?"),
        ("mean(nucleus.class) > 1", "nucleus.class is a text, and a number is needed here"),
        ("any(nucleus.class == 3)", "3 is a number, and a class is a text"),
        ("any(nucleus.class == 'é' and nucleus.size > 1)", "at character 30 of .*near 'nucleus.size > 1"),
        ("class == 'x'", "cannot be read at character 1, near .class"),
        ("any(nucleus.class = 'x')", "to compare, write =="),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(MsdmError, match=message):
        condition(text, WORDS)


def test_fields_are_selected_by_the_classes_of_their_instances(tmp_path):
    root = toy_folder(tmp_path / "data", ["a", "b", "c"], ["train", "train", "val"])
    there = {id: np.unique(read_labels(root / "nuclei" / f"{id}.png")).tolist()[1:] for id in "abc"}
    one = {there["a"][0]: "tumor"}
    write_classes(root, {"a": {"nucleus": dict.fromkeys(there["a"], "tumor")}, "c": {"nucleus": one}})
    for workers in (1, 2):
        found = select(root, "fraction(nucleus.class == 'tumor') == 1", workers=workers)
        assert found.chosen_ids == ["a"]
    assert select(root, sort="count(nucleus.class == 'tumor')", limit=1).chosen_ids == ["a"]
    assert "no nucleus has the class 'tumour'; did you mean 'tumor'?" in " ".join(
        select(root, "any(nucleus.class in ['tumour', 'tumor'])").notes
    )
    with pytest.raises(MsdmError, match=r"no cell has a class"):
        select(root, "any(cell.class == 'x')")
    (root / "instances.csv").write_text("id,kind\n")
    assert select(root, "count_nucleus > 0").chosen_ids == ["a", "b", "c"], "not read unless it is asked for"
    with pytest.raises(MsdmError, match="must begin with the columns"):
        select(root, "any(nucleus.class == 'x')")


def blobs(seed, id="a"):
    """Cells with a nucleus each of the same label; every class says which instance it was."""
    draw = np.random.default_rng(seed)
    cell, nucleus = np.zeros((40, 48), np.int32), np.zeros((40, 48), np.int32)
    for y in range(2, 34, 12):
        for x in range(2, 42, 12):
            if draw.uniform() < 0.7:
                label, height, width = int(draw.integers(1, 400)), *(int(n) for n in draw.integers(3, 8, 2))
                cell[y : y + height, x : x + width] = label
                nucleus[y + 1 : y + height - 1, x + 1 : x + width - 1] = label
    masks = {"cell": cell, "nucleus": nucleus}
    classes = {
        kind: {int(k): f"{id} {kind} {k}" for k in np.unique(labels) if k} for kind, labels in masks.items()
    }
    return Sample(id, masks, np.zeros((3, 40, 48), np.float32), classes=classes)


OPERATIONS = [
    "drop_instances:fraction=0.5", "duplicate_instances:fraction=1.5", "elastic:amplitude=3,smoothness=4",
    "flip_turn", "mix:fraction=0.6", "move_instances:distance=6", "scale_instances:factor=[0.7, 1.4]",
]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=4), st.integers(0, 999))
def test_classes_follow_their_instances(names, seed):
    """Every instance has a class, and that of a cell and its nucleus are of one origin."""
    field, other = blobs(seed), blobs(seed + 1, "b")
    if not field.masks["cell"].any():
        return
    changed, _ = operate(field, load_operations(names), seed, lambda rng: other)
    mixes = any(name.startswith("mix") for name in names)
    for kind, labels in changed.masks.items():
        there = set(np.unique(labels).tolist()) - {0}
        classes = changed.classes.get(kind, {})
        assert set(classes) == there
        assert all(name.startswith(f"a {kind}") or mixes for name in classes.values())
        if names == ["flip_turn"]:
            assert classes == field.classes[kind]
    for label, name in changed.classes["nucleus"].items():
        assert changed.classes["cell"][label] == name.replace("nucleus", "cell")


def test_copies_have_the_class_of_what_they_are_copies_of():
    nucleus = np.zeros((30, 30), np.int32)
    nucleus[5:9, 5:9] = 7
    nucleus[5:9, 15:22] = 8
    image, classes = np.zeros((3, 30, 30), np.float32), {"nucleus": {7: "round"}}
    field = Sample("a", {"nucleus": nucleus}, image, classes=classes)
    changed, _ = operate(field, load_operations(["duplicate_instances:fraction=2"]), 0)
    areas = np.bincount(changed.masks["nucleus"].ravel())
    named = changed.classes["nucleus"]
    assert len(np.flatnonzero(areas)) - 1 > len(named) > 1, "some have a class, and some have none"
    assert set(named.values()) == {"round"}
    assert all(areas[label] < 25 for label in named), "the small one, turned"


def test_a_label_that_is_given_anew_has_no_old_class():
    nucleus = np.zeros((30, 30), np.int32)
    nucleus[5:9, 5:9], nucleus[5:9, 15:22] = 1, 2
    field = Sample(
        "a", {"nucleus": nucleus}, np.zeros((3, 30, 30), np.float32), classes={"nucleus": {1: "x"}}
    )
    for seed in range(8):
        both = ["drop_instances:fraction=0.5", "duplicate_instances:fraction=1"]
        changed, _ = operate(field, load_operations(both), seed)
        (large,) = {bool(area > 20) for area in np.bincount(changed.masks["nucleus"].ravel())[1:] if area}
        assert changed.classes == ({} if large else {"nucleus": {1: "x", 2: "x"}})


TOY = [
    "backbone={channels: 16, multipliers: [1, 2], blocks: 1, head_channels: 8, groups: 8}",
    "injectors.0.hidden=8",
    "data.crop=16",
    "train={steps: 1, batch: 2}",
    "sample={steps: 1, precision: fp32}",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = toy_folder(tmp_path_factory.mktemp("data"), ["a", "b", "c"], ["train", "val", "val"])
    masks = {id: {"nucleus": read_labels(root / "nuclei" / f"{id}.png")} for id in "abc"}
    names = {id: {"nucleus": {k: f"{id}{k}" for k in range(1, 99)}} for id in "abc"}
    write_classes(root, {id: present(masks[id], names[id]) for id in "abc"})
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return train(load_recipe("quickstart", TOY), data, tmp_path_factory.mktemp("runs") / "run", device="cpu")


def test_painting_carries_the_classes_of_the_masks(run, data, tmp_path):
    given = read_instances(data)
    out = tmp_path / "out"
    both = Recombination(frozenset({"appearance"}))
    paint(run, data, out, versions=2, recombination=both, device="cpu")
    made = read_instances(out)
    rows = FieldDataset(out).rows
    assert len(rows) == 4
    for row in rows:
        assert made[row["id"]] == given[row["source_morphology"]]
    assert select(out, "any(nucleus.class in ['b1', 'b2', 'b3'])").chosen_ids == ["b_v1", "b_v2"]
    again = tmp_path / "again"
    paint(run, data, again, n=2, operations=load_operations(["mix"]), device="cpu")
    for id, named in read_instances(again).items():
        assert present({"nucleus": read_labels(again / "nuclei" / f"{id}.png")}, named) == named
        assert {name[0] for name in named["nucleus"].values()} == {"b", "c"}


def test_an_interruption_leaves_the_classes_of_every_pair(run, data, tmp_path):
    out, painted = tmp_path / "out", []

    def stop(event):
        if isinstance(event, Painted):
            painted.append(event.id)
            if len(painted) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        paint(run, data, out, n=4, device="cpu", listener=stop)
    assert [row["id"] for row in FieldDataset(out).rows] == painted
    assert list(read_instances(out)) == painted


def test_without_classes_there_is_no_file(run, tmp_path):
    root = toy_folder(tmp_path / "data", ["a", "b"], ["train", "val"])
    paint(run, root, tmp_path / "out", n=1, device="cpu")
    assert not (tmp_path / "out" / "instances.csv").exists()


def test_what_grows_is_read_at_any_time_and_a_cut_row_is_refused(tmp_path):
    odd = 'a "b",\nc'
    file = InstanceJournal(tmp_path / INSTANCES)
    file.add("a", {"nucleus": {2: "x", 1: odd}})
    assert read_instances(tmp_path) == {"a": {"nucleus": {1: odd, 2: "x"}}}
    whole = (tmp_path / "instances.csv").read_bytes()
    file.add("b", {})
    file.add("c", {"cell": {3: "y"}, "nucleus": {12: "z"}})
    file.close()
    assert InstanceIndex(tmp_path, ["c"]).of("c") == {"cell": {3: "y"}, "nucleus": {12: "z"}}
    data = (tmp_path / "instances.csv").read_bytes()
    readable = set()
    for end in range(len(whole), len(data)):
        (tmp_path / "instances.csv").write_bytes(data[:end])
        try:
            readable.add(repr(read_instances(tmp_path).get("c", {})))
        except MsdmError:
            continue
    assert readable <= {"{}", "{'cell': {3: 'y'}}", "{'cell': {3: 'y'}, 'nucleus': {12: 'z'}}"}


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_text("id,kind,label,class\nb,cell,1,x\nb,cell,2,y\n"), "others are there"),
        (lambda path: path.write_text(path.read_text()[:-4]), "others are there"),
        (lambda path: path.write_text(path.read_text()[:-11]), "it is shorter"),
        (lambda path: path.write_bytes(b"\xff" * 100), "can't decode"),
    ],
)
def test_a_file_that_changes_while_it_is_in_use_is_told(tmp_path, change, cause):
    path = tmp_path / "instances.csv"
    path.write_text("id,kind,label,class\na,cell,1,x\na,cell,2,y\n")
    index = InstanceIndex(tmp_path, ["a"])
    assert index.of("a") == {"cell": {1: "x", 2: "y"}}
    change(path)
    with pytest.raises(MsdmError, match="the rows of field 'a' are no longer where they were") as caught:
        index.of("a")
    assert cause in str(caught.value)


def test_layouts_have_the_classes_of_their_shapes(data, tmp_path):
    given = read_instances(data)
    synthesise(data, tmp_path / "out", n=2, size=(40, 40), density=3000, seed=1)
    with open(tmp_path / "out" / "shapes.csv", newline="") as handle:
        shapes = list(csv.DictReader(handle))
    made = read_instances(tmp_path / "out")
    for shape in shapes:
        named = made[shape["id"]]["nucleus"]
        mask = read_labels(tmp_path / "out" / "nuclei" / f"{shape['id']}.png")
        cell = read_labels(tmp_path / "out" / "cells" / f"{shape['id']}.png") == int(shape["label"])
        (inside,) = set(np.unique(mask[cell]).tolist()) - {0}
        assert named[inside] in given[shape["source"]]["nucleus"].values()
    library = read_shapes(data)
    layout = lay_out(library, library.weights(None), (40, 40), 4, np.random.default_rng(0))
    assert layout.classes["nucleus"]


def test_layouts_of_a_set_without_classes_have_none(tmp_path):
    root = toy_folder(tmp_path / "data", ["a", "b"], ["train", "val"])
    synthesise(root, tmp_path / "out", n=1, size=(40, 40), density=3000)
    assert not (tmp_path / "out" / "instances.csv").exists()


def test_labels_of_a_mask_alone_are_present():
    labels = np.zeros((4, 4), np.int32)
    labels[0, 0] = 2
    assert present({"nucleus": labels}, {"nucleus": {1: "x", 2: "y"}, "cell": {2: "z"}}) == {
        "nucleus": {2: "y"}
    }
