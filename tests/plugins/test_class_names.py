"""Classes that a condition names and the data do not have: told when a run starts, refused if misspelt."""

import pytest

from msdm_kit.conditioners.hv_maps import HVMaps, HVMapsConfig
from msdm_kit.conditioners.label_map import LabelMap, LabelMapConfig
from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.class_names import class_notes
from msdm_kit.plugins.plan import plan_run
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.splits import open_splits
from msdm_kit.plugins.training import train

from ..toy import toy_folder

KNOWN = {"epithelial", "lymphocyte"}


def labels(*classes):
    return {"map": LabelMap(LabelMapConfig(classes=classes), {}), "hv": HVMaps(HVMapsConfig(), {})}


def test_known_classes_are_passed_over():
    assert class_notes(labels("lymphocyte", "epithelial"), KNOWN) == []
    assert class_notes(labels("lymphocyte"), KNOWN) == []
    assert class_notes(labels(), ()) == []


@pytest.mark.parametrize(
    ("classes", "word", "meant"),
    [(("epithelal",), "epithelal", "epithelial"), (("lymphocyte", "Epithelial"), "Epithelial", "epithelial")],
)
def test_a_misspelt_class_is_an_error(classes, word, meant):
    with pytest.raises(
        MsdmError, match=f"'map': no instance has the class '{word}'; did you mean '{meant}'?"
    ):
        class_notes(labels(*classes), KNOWN)


def test_a_class_that_no_instance_has_is_a_note():
    """A rare class may be missing from a part of a data set; likeness to another named one is no mistake."""
    (note,) = class_notes(labels("epithelial", "epithelial2", "plasma"), KNOWN)
    assert "no instance has the class epithelial2, plasma" in note
    assert "the data have: epithelial, lymphocyte" in note
    (note,) = class_notes(labels("plasma"), ())
    assert "the data say of no instance which it has (instances.csv)" in note


@pytest.fixture
def data(tmp_path):
    folder = toy_folder(tmp_path / "data", list("abc"), ["train", "train", "val"])
    (folder / "instances.csv").write_text(
        "id,kind,label,class\na,nucleus,1,epithelial\nc,nucleus,1,lymphocyte\n"
    )
    return folder


def recipe(*classes):
    small = (
        "backbone={channels: 32, multipliers: [1, 1], blocks: 1, attention_strides: [], head_channels: 32}"
    )
    given = f"conditioners.morphology.classes=[{', '.join(classes)}]"
    return load_recipe("nasdm", [small, "backbone.groups=8", "data.crop=32", given])


@pytest.mark.parametrize(("named", "there"), [("T cell", "B cell"), ("endothelial", "epithelial")])
def test_other_classes_of_like_names_are_no_misspellings(named, there):
    assert len(class_notes(labels(named), {there})) == 1


def test_it_shows_before_anything_is_trained(data, tmp_path):
    assert open_splits(recipe("plasma"), data).classes == KNOWN
    plan = plan_run(recipe("plasma", "epithelial"), data, tmp_path / "run", device="cpu")
    assert any("no instance has the class plasma" in note for note in plan.notes)
    for job in (
        lambda made: plan_run(made, data, tmp_path / "run"),
        lambda made: train(made, data, tmp_path / "run"),
    ):
        with pytest.raises(MsdmError, match="did you mean 'epithelial'"):
            job(recipe("epithelal"))
    assert not (tmp_path / "run").exists()
