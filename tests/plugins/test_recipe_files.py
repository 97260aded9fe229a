import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.recipe import Recipe
from msdm_kit.plugins.host import get_host
from msdm_kit.plugins.recipe_files import differences, dump_recipe, load_recipe, resolve_recipe_dict

PRESETS = get_host().names("recipe")

SMALL = """
name: small
conditioners:
  morphology: {type: hv_maps, masks: [nucleus], drop: 0.1}
injectors:
  - {type: spade, from: [morphology], at: [decoder], hidden: 8}
backbone: {type: unet, channels: 8}
train: {steps: 10, clip: 2.0}
"""


@pytest.fixture
def write(tmp_path):
    def make(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return make


@pytest.fixture
def small(write):
    return write("small.yaml", SMALL)


def message(name_or_path, *overrides) -> str:
    with pytest.raises(MsdmError) as caught:
        load_recipe(name_or_path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_presets():
    assert {"msdm", "sdm-hv", "sdm", "quickstart"} <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_and_comes_back_from_yaml(name, write):
    recipe = load_recipe(name)
    assert recipe.name == name
    again = load_recipe(write("again.yaml", dump_recipe(recipe)))
    assert again == recipe
    assert differences(again, recipe) == []


def test_msdm_adds_colour_and_text_to_sdm_hv_and_nothing_else():
    lines = differences(load_recipe("sdm-hv"), load_recipe("msdm"))
    assert "injectors.0.from: ['morphology'] -> ['morphology', 'colour']" in lines
    parts = {line.partition(":")[0].rpartition(".")[0] for line in lines}
    assert parts == {"conditioners.colour", "conditioners.text", "injectors.0", "injectors.1"}


def test_sdm_and_sdm_hv_share_the_injection():
    lines = differences(load_recipe("sdm-hv"), load_recipe("sdm"))
    assert lines == [
        "data.crop: 512 -> 256",
        "conditioners.morphology.type: 'hv_maps' -> 'label_map'",
        "conditioners.morphology.drop: 0.0 -> 0.2",
        "conditioners.morphology.edges: (absent) -> True",
        "backbone.multipliers: [0.5, 1, 1, 2, 2, 4, 4] -> [1, 1, 2, 2, 4, 4]",
        "backbone.attention_strides: [16, 32, 64] -> [8, 16, 32]",
        "diffusion.schedule: 'cosine' -> 'linear'",
        "diffusion.variance: 'fixed_small' -> 'learned_range'",
        "train.optimizer: 'adam' -> 'adamw'",
        "sample.guidance: 1.0 -> 1.5",
    ]


def test_a_parent_is_merged_deeply_lists_replace_and_null_deletes(small, write):
    child = write(
        "sub/child.yaml",
        """
extends: ../small.yaml
conditioners: {morphology: {masks: null, mode: edt}, other: {type: class_label, column: assay}}
injectors: [{type: film, from: [morphology, other], at: [decoder]}]
train: {lr: 1e-3}
""",
    )
    data = resolve_recipe_dict(child)
    assert data["name"] == "child"
    assert data["conditioners"]["morphology"] == {"type": "hv_maps", "mode": "edt", "drop": 0.1}
    assert data["injectors"] == [{"type": "film", "from": ["morphology", "other"], "at": ["decoder"]}]
    assert data["train"] == {"steps": 10, "clip": 2.0, "lr": 1e-3}
    assert data["backbone"] == {"type": "unet", "channels": 8}
    assert load_recipe(child).train.lr == 1e-3


def test_another_type_takes_nothing_over_from_the_old_plugin(small, write):
    child = write("child.yaml", "extends: small.yaml\nbackbone: {type: other, depth: 2}\n")
    assert resolve_recipe_dict(child)["backbone"] == {"type": "other", "depth": 2}
    swapped = resolve_recipe_dict(
        small,
        [f"conditioners.morphology.{setting}" for setting in ("edges=true", "drop=0.5", "type=label_map")],
    )
    assert swapped["conditioners"]["morphology"] == {"type": "label_map", "edges": True, "drop": 0.5}


def test_null_is_a_value_where_the_schema_has_it(small, write):
    child = write("child.yaml", "extends: small.yaml\ntrain: {clip: null}\n")
    assert load_recipe(child).train.clip is None
    assert load_recipe(small, ["train.clip=null"]).train.clip is None
    assert load_recipe(write("again.yaml", dump_recipe(load_recipe(child)))).train.clip is None


def test_a_grandparent_preset(write):
    write("mid.yaml", "extends: sdm-hv\ntrain: {batch: 3}\n")
    leaf = load_recipe(write("leaf.yaml", "extends: mid.yaml\ntrain: {accumulate: 2}\n"))
    assert differences(load_recipe("sdm-hv"), leaf) == ["train.batch: 5 -> 3", "train.accumulate: 5 -> 2"]
    assert (leaf.name, leaf.summary) == ("leaf", "")


def test_a_cycle_is_an_error(write):
    first = write("a.yaml", "extends: b.yaml\n")
    write("b.yaml", "extends: a.yaml\n")
    assert message(first).endswith("extends itself: a.yaml -> b.yaml -> a.yaml; take one `extends` out")


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("train.lr=1e-4", lambda r: r.train.lr, 1e-4),
        ("train.lr=.5", lambda r: r.train.lr, 0.5),
        ("backbone.dropout=1e-1", lambda r: r.backbone.settings["dropout"], 0.1),
        ("injectors.0.hidden=32", lambda r: r.injectors[0].settings["hidden"], 32),
        ("injectors.0.at=[middle, decoder]", lambda r: r.injectors[0].at, ("middle", "decoder")),
        ("data.flips=false", lambda r: r.data.flips, False),
        ("train.ema.decay=0.5", lambda r: r.train.ema.decay, 0.5),
        ("sample.guidance=2", lambda r: r.sample.guidance, 2.0),
        ("sample.guidance.morphology=2", lambda r: r.sample.guidance, {"morphology": 2.0}),
        ("reference=a=b", lambda r: r.reference, "a=b"),
        ("conditioners.morphology={drop: 0.5}", lambda r: r.conditioners["morphology"].drop, 0.5),
    ],
)
def test_overrides(small, override, get, value):
    assert get(load_recipe(small, [override])) == value


def test_overrides_can_take_a_condition_out():
    lean = load_recipe("msdm", ["conditioners.text=null", "injectors.1=null"])
    assert set(lean.conditioners) == {"morphology", "colour"}
    assert len(lean.injectors) == 1


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("train.lrate=1", "no key 'lrate' in train; did you mean 'lr'? legal: accumulate, "),
        ("trian.lr=1", "no key 'trian' in the recipe; did you mean 'train'?"),
        ("train.lr.x=1", "no key 'x' in train.lr; legal: (none)"),
        ("conditioners.morphlogy.drop=1", "no key 'morphlogy' in conditioners; did you mean 'morphology'?"),
        ("injectors.3.hidden=1", "no key '3' in injectors; legal: 0 to 0"),
        ("backbone.type.x=1", "no key 'x' in backbone.type"),
        ("train.lr", "write KEY.KEY=VALUE"),
        ("train.lr=", "write KEY.KEY=VALUE"),
        ("train..lr=1", "write KEY.KEY=VALUE"),
        ("train.lr=[1", "line 1, column 3: "),
        ("train.lr=-1", "recipe small: train.lr: input should be greater than 0; got -1"),
        ("train.lr=fast", "recipe small: train.lr: input should be a valid number"),
        (
            "train.optimizer=adan",
            "train.optimizer: 'adan' is not legal; did you mean 'adam'? legal: adam, adamw",
        ),
        ("train.epochs=3", "recipe small: train: give exactly one of steps and epochs"),
        ("sample.guidance={x: 1}", "recipe small: sample.guidance.x: no such conditioner"),
        ("sample.guidance={x: y}", "recipe small: sample.guidance.x: input should be a valid number"),
        ("injectors.0.from=[colour]", "injectors.0.from: no conditioner 'colour'; legal: morphology"),
        ("backbone=null", "recipe small: backbone: missing; give it"),
        ("name=null", "small.yaml: name: missing; give it"),
        ("data.masks=3", "recipe small: data.masks: input should be a valid tuple; got 3"),
    ],
)
def test_bad_overrides(small, override, text):
    assert text in message(small, override)


def test_an_unknown_key_is_named_with_its_path(write):
    path = write("mine.yaml", "extends: msdm\nname: mine\ntrain: {lrate: 1}\n")
    assert message(path).startswith("recipe mine: train.lrate: unknown key; did you mean 'lr'? legal: acc")


def test_of_several_errors_the_first_is_shown_and_the_others_counted(write):
    path = write("mine.yaml", "extends: msdm\ntrain: {lrate: 1, batch: 0}\nfoo: 1\n")
    text = message(path)
    assert text.startswith("recipe mine: train.lrate: unknown key")
    assert text.endswith("(+2 more)")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("train: {lr: 1\nname: x", "line 2, column 5: "),
        ("train: " + "[" * 3000, "nested too deeply"),
        ("train:\n  lr: 1\n  lr: 2\n", "line 3, column 3: the key 'lr' stands twice"),
        ("", "holds nothing; a recipe is a mapping of sections"),
        ("- a\n", "holds list; a recipe is a mapping of sections"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1, column 4: could not determine a constructor"),
        ("a: \x07\n", "not legal YAML: unacceptable character"),
        ("extends: 3\n", "extends: give one preset's name or one path; got 3"),
        ("extends: msmd\n", "no recipe 'msmd'; did you mean 'msdm'?"),
        ("extends: gone.yaml\n", "gone.yaml: no such file"),
    ],
)
def test_bad_files(write, content, text):
    assert text in message(write("bad.yaml", content))


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"name: \xff\xfe")
    assert "cannot be read: not UTF-8 text" in message(path)


def test_unknown_names():
    text = message("msmd")
    assert text.startswith("no recipe 'msmd'; did you mean 'msdm'? legal: ")
    assert text.endswith("the path of a YAML file is legal as well")
    assert "no such file" in message("msmd.yaml")
    assert "no such file" in message(Path("msdm"))


numbers = st.floats(min_value=1e-12, max_value=1e12, exclude_min=True)
plain = st.one_of(
    st.integers(), numbers, st.booleans(), st.text(max_size=12), st.sampled_from(["1e5", "null", "~", "on"])
)
values = st.one_of(
    plain, st.lists(plain, max_size=3), st.dictionaries(st.text(max_size=5), plain, max_size=3)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lr=numbers, seed=st.integers(), setting=values, summary=st.text(max_size=20))
def test_any_recipe_comes_back_from_yaml(write, lr, seed, setting, summary):
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "summary": summary,
            "backbone": {"type": "unet", "setting": setting},
            "train": {"steps": 1, "lr": lr, "seed": seed},
        }
    )
    again = load_recipe(write("x.yaml", dump_recipe(recipe)))
    assert again == recipe
    assert math.isclose(again.train.lr, lr, rel_tol=0)
