"""Plans: what is refused, what they become, and which steps depend on what."""

import os
import re
from pathlib import Path

import pytest
import yaml

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins import host
from msdm_kit.plugins.experiment.experiment import prepare
from msdm_kit.plugins.experiment.plan import (
    FidelitySection,
    GeneratorEntry,
    Plan,
    SelectionSection,
    SynthesisSection,
    TestEntry,
)
from msdm_kit.plugins.experiment.plan_files import dump_plan, find_plan, load_plan
from msdm_kit.plugins.experiment.steps import Ledger

from ..experiments import steps_of, toy_package, toy_plan

CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[2]))


@pytest.fixture(autouse=True)
def segmenter(tmp_path, monkeypatch):
    """The segmenter `nearest`, as an installed package."""
    monkeypatch.syspath_prepend(toy_package(tmp_path / "package"))
    host.get_host.cache_clear()
    yield
    host.get_host.cache_clear()


def refused(path: Path) -> str:
    with pytest.raises(MsdmError) as caught:
        prepare(path, None)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("changes", "where", "why"),
    [
        ({"tset": {}}, "tset", "unknown key; legal: annotator"),
        ({"synthesis": {"version": 2}}, "synthesis.version", "did you mean 'versions'?"),
        ({"synthesis": {"versions": 0}}, "synthesis.versions", "greater than or equal to 1"),
        ({"synthesis": {"recombine": ["colour"]}}, "synthesis.recombine.0", "'colour' is not legal"),
        ({"seeds": 0}, "seeds", "0 repeats are none"),
        ({"seeds": 10**12}, "seeds", "legal are 1 to 1000"),
        ({"seeds": [1, 1]}, "seeds", "name each once"),
        ({"tests": {}}, "tests", "at least 1"),
        ({"tests": {"a b": {"split": "mixed"}}}, "tests.a b", "match pattern"),
        ({"tests": {"a": {"split": "train"}}}, "tests.a.split", "is trained or validated on"),
        ({"tests": {"a": {"split": "mixd"}}}, "tests.a.split", "did you mean 'mixed'?"),
        ({"splits": {"validation": "train"}}, "splits.validation", "is trained on"),
        ({"fidelity": {"split": "train"}}, "fidelity.split", "is trained on"),
        ({"fidelity": {"groups": ["asay"]}}, "fidelity.groups.0", "did you mean 'assay'?"),
        ({"fidelity": {"embedder": {"type": "descriptor"}}}, "fidelity.embedder", "'descriptors'"),
        (
            {"fidelity": {"embedder": {"type": "timm", "model": "local-dir:none"}}},
            "fidelity.embedder",
            "none has no config.json",
        ),
        ({"kinds": ["cell", "gland"]}, "kinds.1", "has no folder gland"),
        ({"columns": ["cell_f2"]}, "columns.0", "did you mean 'cell_f1'?"),
        ({"kinds": ["cell"], "columns": ["nucleus_dice"]}, "columns.0", "reads kinds nucleus"),
        ({"segmenter": {"type": "nearst"}}, "segmenter", "did you mean 'nearest'?"),
        ({"segmenter": {"type": "nearest", "epoch": 3}}, "epoch", "did you mean 'epochs'?"),
        ({"selection": {"where": "mean_nucleus_area >"}}, "selection.where", "invalid syntax"),
        ({"selection": {"where": "mean_nucles_area > 1"}}, "selection.where", "mean_nucleus_area"),
        ({"distance": "six"}, "distance", "such as 6px or 3um"),
        ({"distance": "3um"}, "distance", "give the manifest a column pixel_size_um"),
        ({"segmenter": {"type": "cpsam"}}, "segmenter", "needs its weights"),
        ({"data": "nowhere"}, "data", "nowhere"),
        ({"annotators": {"P2": "nowhere"}}, "annotators.P2", "nowhere"),
        ({"annotators": {"truth": "data"}}, "annotators.truth", "the name of `annotator`"),
        ({"arms": {"b": {}, "sdm": {"generators": ["smd"]}}}, "arms.sdm.generators", "did you mean 'sdm'?"),
        ({"arms": {"b": {}, "c": {}}}, "arms", "2 arms without generators"),
        ({"arms": {"b": {}, "sdm": {"generators": ["sdm"]}}}, "generators.msdm", "no arm uses it"),
        ({"generators": {"sdm": {"recipe": "sdm_hv"}}}, "generators.sdm", "did you mean 'sdm-hv'?"),
        (
            {"generators": {"sdm": {"recipe": "tiny.yaml", "set": ["train.lrate=1"]}}},
            "generators.sdm",
            "did you mean 'lr'?",
        ),
        (
            {"generators": {"sdm": {"recipe": "tiny.yaml", "sampling": {"step": 3}}}},
            "generators.sdm",
            "did you mean 'steps'?",
        ),
        (
            {"generators": {"sdm": {"recipe": "tiny.yaml", "steps": 2, "epochs": 2}}},
            "generators.sdm",
            "give one of them",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_path(tmp_path, changes, where, why):
    text = refused(toy_plan(tmp_path, **changes))
    assert text.startswith(f"plan {tmp_path / 'plan.yaml'}: ") or where == "epoch"
    assert where in text
    assert why in text


def test_a_plan_without_splits_is_refused(tmp_path):
    path = toy_plan(tmp_path)
    manifest = tmp_path / "data" / "metadata.csv"
    lines = [line.rpartition(",")[0] for line in manifest.read_text().splitlines()]
    manifest.write_text("\n".join(lines) + "\n")
    assert "has no column split" in refused(path)


def test_an_annotator_without_a_mask_is_refused(tmp_path):
    path = toy_plan(tmp_path, annotators={"P2": "second"})
    (tmp_path / "second" / "cells").mkdir(parents=True)
    assert "annotators.P2" in refused(path)


def test_unreadable_and_unknown_plans(tmp_path):
    (tmp_path / "bad.yaml").write_text("tests: {a: [}")
    with pytest.raises(MsdmError, match=r"plan .*bad\.yaml: line 1"):
        load_plan(tmp_path / "bad.yaml")
    with pytest.raises(MsdmError, match=r"no plan 'quik'; did you mean 'quick'\?"):
        find_plan("quik")
    with pytest.raises(MsdmError, match="no such file"):
        find_plan(str(tmp_path / "none.yaml"))


def test_arms_are_the_baseline_and_each_generator():
    plan = load_plan(find_plan("quick"))
    assert {name: arm.generators for name, arm in plan.arms.items()} == {
        "baseline": (),
        "sdm": ("sdm",),
        "msdm": ("msdm",),
    }
    assert [plan.title(arm) for arm in plan.arms] == ["Baseline", "SDM", "MSDM"]
    assert plan.seeds == (0, 1, 2)


@pytest.mark.parametrize("name", ["quick", "full"])
def test_the_plans_that_ship_are_whole(name):
    protocol, steps = steps_of(find_plan(name))
    plan = protocol.plan
    assert protocol.columns == ("cell_f1", "cell_assd", "cytoplasm_dice", "nucleus_dice")
    jobs = [step.job for step in steps]
    assert jobs.count("segmenter") == 3 * len(plan.seeds) * 2
    assert jobs.count("train") == 2
    assert plan.synthesis.versions == {"quick": 4, "full": 8}[name]


def test_a_plan_is_written_out_and_read_back(tmp_path):
    plan = load_plan(toy_plan(tmp_path))
    assert Plan.model_validate(yaml.safe_load(dump_plan(plan))) == plan


def test_settings_on_the_command_line(tmp_path):
    path = toy_plan(tmp_path)
    plan = load_plan(path, ["generators.msdm.steps=7", "seeds=[4]", "segmenter={type: nearest, epochs: 9}"])
    assert (plan.generators["msdm"].steps, plan.seeds, plan.segmenter.settings) == (7, (4,), {"epochs": 9})
    for text in ("seeds", "=3", "a..b=3", "seeds.first=3"):
        with pytest.raises(MsdmError, match="--set"):
            load_plan(toy_plan(tmp_path, seeds=3), [text])
    with pytest.raises(MsdmError, match=r"synthesis\.version"):
        load_plan(path, ["synthesis.version=3"])


def test_the_documentation_has_every_key_and_its_example_is_legal():
    page = (CHECKOUT / "docs" / "experiment.md").read_text(encoding="utf-8")
    for key in Plan.model_fields:
        assert f"`{key}`" in page, key
    for entry in (GeneratorEntry, SelectionSection, SynthesisSection, FidelitySection, TestEntry):
        for key in entry.model_fields:
            assert f"`{key}`" in page, key
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    plan = Plan.model_validate(yaml.safe_load(example))
    assert list(plan.annotators) == ["P2", "P3"]


def hashes(tmp_path, **changes):
    """The inputs of each step, as if all steps before had come out as their names say."""
    _, steps = steps_of(toy_plan(tmp_path, **changes))
    ledger = Ledger(tmp_path)
    return {step.name: ledger.inputs(step, {name: name for name in step.needs}) for step in steps}


def changed(tmp_path, **changes):
    before, after = hashes(tmp_path), hashes(tmp_path, **changes)
    return {name.split(".")[0] for name, value in after.items() if before.get(name) != value}


def test_a_change_reaches_what_it_concerns(tmp_path):
    base = yaml.safe_load(toy_plan(tmp_path).read_text())
    generators = base["generators"]
    sampled = {**generators, "msdm": {**generators["msdm"], "sampling": {"steps": 3}}}
    longer = {**generators, "msdm": {**generators["msdm"], "steps": 5}}
    for changes, expected in (
        ({"selection": {"where": None}}, {"select", "report"}),
        ({"synthesis": {"versions": 3}}, {"paint", "report"}),
        ({"generators": sampled}, {"paint", "repaint", "report"}),
        ({"generators": longer}, {"train", "report"}),
        ({"segmenter": {"type": "nearest", "epochs": 3}}, {"segmenter", "report"}),
        ({"segmenter": {"type": "nearest", "epochs": 2}}, {"report"}),  # the default, named
        ({"distance": "4px"}, {"score", "report"}),
        ({"fidelity": {"groups": []}}, {"fidelity", "report"}),
        ({"significance": {"level": 0.01}}, {"report"}),
        ({"summary": "of interest to readers"}, {"report"}),
    ):
        assert changed(tmp_path, **changes) == expected, changes


def test_more_seeds_only_add_steps(tmp_path):
    before, after = hashes(tmp_path), hashes(tmp_path, seeds=3)
    old = set(before) - {"report"}
    assert {name: after[name] for name in old} == {name: before[name] for name in old}
    assert {name.split(".")[-1] for name in set(after) - set(before)} == {"seed2"}


def test_other_pixels_are_other_data(tmp_path):
    before = hashes(tmp_path)
    image = tmp_path / "data" / "images" / "f06.png"  # of a test set
    image.write_bytes((tmp_path / "data" / "images" / "f07.png").read_bytes())
    after = hashes(tmp_path)
    assert {name.split(".")[0] for name in after if after[name] != before[name]} == {"predict"}
    mask = tmp_path / "data" / "nuclei" / "f00.png"  # of the training set
    mask.write_bytes((tmp_path / "data" / "nuclei" / "f01.png").read_bytes())
    last = hashes(tmp_path)
    found = {name.split(".")[0] for name in last if last[name] != after[name]}
    assert found == {"select", "train", "paint", "segmenter", "fidelity", "shapes"}
