"""What a run names of plugins, and what is said where one is missing."""

import json
from types import SimpleNamespace

import pytest
from safetensors import safe_open

from msdm_kit.core.checkpoint import load_tensors, save_tensors
from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.descriptor import Plugin, lazy
from msdm_kit.plugins.needs import check_needs, needs
from msdm_kit.plugins.pipeline import Pipeline
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.weights import find_weights

STAIN = Plugin("stain", "Stain vectors.", lazy("msdm_kit.conditioners.class_label:ClassLabel"))
WANTED = {"kind": "conditioner", "name": "stain", "package": "extra-package", "version": "1.2"}


def facts(**changes: str) -> dict[str, object]:
    return {"plugins": [{**WANTED, **changes}]}


def test_needs_of_a_preset_are_named_with_their_packages(host_with):
    found = needs(load_recipe("msdm"), host_with())
    assert {(n["kind"], n["name"]) for n in found} == {
        ("conditioner", "hv_maps"),
        ("conditioner", "rgb_statistics"),
        ("conditioner", "bert_text"),
        ("injector", "spade"),
        ("injector", "cross_attention"),
        ("backbone", "unet"),
        ("solver", load_recipe("msdm").sample.solver),
    }
    assert {n["package"] for n in found} == {"msdm-kit"}
    assert json.loads(json.dumps(found)) == found


def test_needs_of_another_package_carry_its_version(host_with, entry, module):
    host = host_with(entry("extra", module(msdm_kit_conditioners=[STAIN])))
    recipe = load_recipe("quickstart").model_copy(
        update={"conditioners": {"stain": SimpleNamespace(type="stain")}, "injectors": ()}
    )
    assert WANTED in needs(recipe, host)
    check_needs({"plugins": needs(recipe, host)}, "w", host)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {},
            "w needs conditioner 'stain' of extra-package 1.2, which is not installed; pip install \"extra-p",
        ),
        ({"package": "Extra_Package"}, 'pip install "Extra_Package>=1.2"'),
    ],
)
def test_package_that_is_missing_is_named_with_the_command_that_installs_it(host_with, change, said):
    with pytest.raises(MsdmError) as caught:
        check_needs(facts(**change), "w", host_with())
    assert said in str(caught.value)


def test_package_that_is_there_in_another_state_is_told_apart(host_with, entry, module):
    good = entry("extra", module(msdm_kit_conditioners=[STAIN]))
    without = entry("extra", module(msdm_kit_solvers=[STAIN]))
    check_needs(facts(), "w", host_with(good))
    check_needs(facts(package="Extra.Package", version="1.1"), "w", host_with(good))
    for wanted, host, said in (
        (facts(version="1.10"), host_with(good), r"and 1\.2 is installed, which is older; pip install"),
        (facts(), host_with(without), r"has no such plugin here; pip install \"extra-package>=1\.2\""),
        (facts(), host_with(good, block=("extra",)), r"which is left out \(blocked\)"),
        (facts(), host_with(good, block=("stain",)), r"conditioner 'stain' is blocked; take it off"),
        (
            facts(),
            host_with(entry("extra", ValueError("no"))),
            r"left out \(problem: does not import: ValueError: no\)",
        ),
        (facts(package="other"), host_with(good), r"and here extra-package brings one of that name"),
    ):
        with pytest.raises(MsdmError, match=said):
            check_needs(wanted, "w", host)


@pytest.mark.parametrize(
    "damaged",
    [
        "all",
        [1],
        [{"kind": "solver"}],
        [{**WANTED, "package": "x; rm -rf"}],
        [{**WANTED, "version": "1 && a"}],
    ],
)
def test_damaged_list_is_refused(host_with, damaged):
    with pytest.raises(MsdmError, match="w: its list of plugins is damaged"):
        check_needs({"plugins": damaged}, "w", host_with())


def test_version_that_is_none_is_not_compared(host_with, entry, module):
    check_needs(
        facts(version="unknown"), "w", host_with(entry("extra", module(msdm_kit_conditioners=[STAIN])))
    )


def test_weights_name_what_they_need_and_loading_checks_it(tmp_path):
    path = tmp_path / "weights.safetensors"
    Pipeline.load("demo", device="cpu").save(path)
    with safe_open(path, "pt") as file:
        named = json.loads(file.metadata()["msdm_kit"])["plugins"]
    recipe = Pipeline.load(path, device="cpu").recipe
    assert named == needs(recipe)
    tensors, known = load_tensors(find_weights(path))
    save_tensors(path, tensors, {**known, "plugins": [*named, WANTED]})
    with pytest.raises(MsdmError, match=r'not installed; pip install "extra-package>=1\.2"'):
        Pipeline.load(path, device="cpu")
