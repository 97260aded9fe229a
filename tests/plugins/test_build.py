import json

import numpy as np
import pytest
import torch

from msdm_kit.conditioners.hv_maps import HVMaps
from msdm_kit.core.autoencoder import Autoencoder
from msdm_kit.core.conditioning import Conditioner, PluginConfig, Signal, Spec
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.recipe import Recipe
from msdm_kit.core.sample import Sample
from msdm_kit.plugins.autoencoders.haar import Haar
from msdm_kit.plugins.build import build_conditioners, build_denoiser, collect_facts
from msdm_kit.plugins.check import check_plugins
from msdm_kit.plugins.descriptor import Plugin
from msdm_kit.plugins.host import get_host
from msdm_kit.plugins.recipe_files import load_recipe

PRESETS = get_host().names("recipe")
PAPERS = ("msdm", "sdm-hv", "sdm")
ROWS = [{"assay": "purple", "indication": "lung"}, {"assay": "brown", "indication": "colon"}]
TOY = [
    "backbone={channels: 32, multipliers: [1, 1], blocks: 1, attention_strides: [2], head_channels: 32}",
    "backbone.groups=8",
    "data.crop=16",
]


def toy(name: str, *overrides: str):
    return load_recipe(name, [*TOY, *overrides])


def build(recipe, host=None):
    return build_denoiser(recipe, build_conditioners(recipe, rows=ROWS, host=host), host)


def fail(recipe, host=None) -> str:
    with pytest.raises(MsdmError) as caught:
        build(recipe, host)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sample(size: int) -> Sample:
    labels = np.zeros((size, size), np.int32)
    labels[2:7, 2:9] = 1
    image = np.random.default_rng(0).uniform(-1, 1, (3, size, size)).astype(np.float32)
    return Sample("a", {"cell": labels, "nucleus": labels}, image, ROWS[0])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_runs_at_toy_size(name):
    recipe = toy(name)
    check_plugins(recipe)
    denoiser = build(recipe)
    observed = {
        key: conditioner.collate([conditioner.observe(sample(16))] * 2)
        for key, conditioner in ((k, denoiser.conditioner(k)) for k in denoiser.names)
    }
    with torch.no_grad():
        x = torch.randn(denoiser.autoencoder.shape((2, 3, 16, 16)))
        out = denoiser(x, torch.tensor([0, 999]), denoiser.encode(observed))
    channels = (2 if recipe.diffusion.variance == "learned_range" else 1) * denoiser.autoencoder.channels
    assert out.shape == (2, channels, *x.shape[2:])
    assert denoiser.backbone.checkpointing is (recipe.train.checkpointing is True)


@pytest.mark.parametrize(("name", "width"), [("msdm", 16), ("sdm-hv", 4), ("sdm", 4), ("quickstart", 16)])
def test_full_presets_hold_together(name, width):
    recipe = load_recipe(name)
    check_plugins(recipe)
    conditioners = build_conditioners(recipe, rows=ROWS)
    # the weights of a paper's network are not needed to see that its widths fit
    with torch.device("meta"):
        denoiser = build_denoiser(recipe, conditioners)
    assert denoiser.injections[0].spec == Spec("map", width)
    assert not denoiser.encoder_conditions
    injected = {name for injection in denoiser.injections for name in injection.sites}
    regions = {site.region for site in denoiser.backbone.sites if site.name in injected}
    assert regions <= {"middle", "decoder", "bottleneck"}


def test_papers_are_at_their_size():
    with torch.device("meta"):
        recipe = load_recipe("sdm-hv")
        backbone = build_denoiser(recipe, build_conditioners(recipe, rows=ROWS)).backbone
    assert backbone.multiple == 64
    assert backbone.input_conv.weight.shape == (128, 3, 3, 3)
    assert backbone.time_embed[2].weight.shape == (1024, 1024)


def test_weights_come_from_the_seed_alone():
    a = build(toy("msdm")).state_dict()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    b = build(toy("msdm")).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    other = build(toy("msdm", "train.seed=1")).state_dict()
    assert any(not torch.equal(a[key], other[key]) for key in a if key.startswith("backbone"))


def test_recipes_that_differ_in_conditions_start_from_one_backbone():
    a, b = (build(toy(name)).backbone.state_dict() for name in ("msdm", "sdm-hv"))
    shared = a.keys() & b.keys()
    assert len(shared) > 20
    assert all(torch.equal(a[key], b[key]) for key in shared)


def test_facts_make_the_same_conditioners_without_the_training_set():
    recipe = toy("msdm")
    first = build_conditioners(recipe, rows=ROWS)
    facts = json.loads(json.dumps(collect_facts(first)))
    second = build_conditioners(recipe, facts=facts)
    assert list(second) == list(recipe.conditioners)
    assert collect_facts(second) == facts
    for name, conditioner in first.items():
        mine, theirs = conditioner.state_dict(), second[name].state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_missing_facts():
    with pytest.raises(MsdmError, match=r"conditioners\.morphology: the weights hold no facts for it"):
        build_conditioners(toy("sdm-hv"), facts={"colour": {}})


def test_rows_or_facts():
    with pytest.raises(ValueError, match="exactly one of rows and facts"):
        build_conditioners(toy("sdm-hv"))


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "conditioners.morphology.mode=hovr",
            "conditioners.morphology.mode: 'hovr' is not legal; did you mean 'hover'?",
        ),
        ("conditioners.morphology.mod=edt", "conditioners.morphology.mod: unknown key; did you mean 'mode'?"),
        (
            "conditioners.morphology.type=hv_map",
            "conditioners.morphology.type: no conditioner 'hv_map'; did you mean 'hv_maps'?",
        ),
        ("injectors.0.hiden=3", "injectors.0.hiden: unknown key; did you mean 'hidden'?"),
        ("injectors.0.type=spad", "injectors.0.type: no injector 'spad'; did you mean 'spade'?"),
        ("backbone.chanels=3", "backbone.chanels: unknown key; did you mean 'channels'?"),
        ("backbone.type=unett", "backbone.type: no backbone 'unett'; did you mean 'unet'?"),
        ("sample.solver=ddimm", "sample.solver: no solver 'ddimm'; did you mean 'ddim'?"),
        (
            "sample.mask_operations=[{type: flip_turn}, {type: drop_instance}]",
            "sample.mask_operations.1.type: no mask_operation 'drop_instance'; did you mean",
        ),
        (
            "sample.mask_operations=[{type: drop_instances, fraction: 2}]",
            "sample.mask_operations.0.fraction: input should be less than 1; got 2",
        ),
        ("sample.mask_operations=[{fraction: 0.2}]", "sample.mask_operations.0.type: missing"),
        ("sample.mask_operations=flip_turn", "sample.mask_operations: "),
    ],
)
def test_bad_plugin_settings(override, text):
    with pytest.raises(MsdmError) as caught:
        check_plugins(load_recipe("sdm-hv", [override]))
    assert str(caught.value).startswith(f"recipe sdm-hv: {text}")
    assert "\n" not in str(caught.value)


def test_a_pairing_that_does_not_fit_names_those_that_do():
    text = fail(toy("sdm-hv", "injectors=[{type: cross_attention, from: [morphology], at: [bottleneck]}]"))
    assert text.startswith("recipe sdm-hv: injectors.0.from: conditioner 'morphology' emits a map")
    assert text.endswith("injectors that take a map: concat, spade")


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "injectors.0.at=[decodr]",
            "injectors.0.at: no site 'decodr' in the backbone: did you mean 'decoder'?",
        ),
        (
            "injectors.0.at=[bottleneck]",
            "injectors.0.at: 'bottleneck' offers residual sites, and this injector",
        ),
        ("data.crop=17", "data.crop: 17 is not a multiple of 2"),
        (
            "data.masks=[nucleus]",
            "conditioners.morphology.masks: 'cell' is not in data.masks, which is nucleus; name the same",
        ),
    ],
)
def test_sites_and_sizes_that_do_not_fit(override, text):
    assert fail(toy("sdm-hv", override)).startswith(f"recipe sdm-hv: {text}")


def test_a_norm_site_has_one_owner():
    entry = "{type: spade, from: [morphology], at: [middle]}"
    text = fail(toy("sdm-hv", f"injectors=[{entry}, {entry}]"))
    assert text.startswith("recipe sdm-hv: injectors: two injectors claim the norm site")


class WordsConfig(PluginConfig):
    kind: str = "tokens"
    width: int = 4


class Words(Conditioner):
    """A third party's conditioner: ones, of any form."""

    Config = WordsConfig

    def __init__(self, config, facts):
        super().__init__(config, facts)
        self.spec = Spec(config.kind, config.width)

    def observe(self, sample):
        return {"x": torch.ones(2, self.spec.width)}

    def encode(self, batch):
        return Signal(batch["x"], torch.ones(batch["x"].shape[:2], dtype=torch.bool))

    def null(self, like):
        return Signal(torch.zeros_like(like.data), like.mask)


@pytest.fixture
def words_host(host_with, entry, module):
    plugins = [Plugin("words", "Ones.", lambda: Words), Plugin("no_class", "A function.", lambda: print)]
    return host_with(entry("words", module(msdm_kit_conditioners=plugins)))


def words(a: str, b: str, injector: str = "cross_attention", at: str = "bottleneck"):
    return toy(
        "sdm-hv",
        f"conditioners={{a: {{type: words, {a}}}, b: {{type: words, {b}}}}}",
        "conditioners.morphology=null",
        f"injectors=[{{type: {injector}, from: [a, b], at: [{at}]}}]",
    )


def test_tokens_of_a_third_party_join_on_length(words_host):
    denoiser = build(words("width: 4", "width: 4"), words_host)
    assert denoiser.injections[0].spec == Spec("tokens", 4)
    observed = {name: denoiser.conditioner(name).collate([{"x": torch.ones(2, 4)}]) for name in "ab"}
    assert denoiser.injections[0].signal(denoiser.encode(observed)).data.shape == (1, 4, 4)


def test_vectors_join_on_width(words_host):
    denoiser = build(words("kind: vector", "kind: vector, width: 3", "film", "decoder"), words_host)
    assert denoiser.injections[0].spec == Spec("vector", 7)


def test_conditions_that_do_not_join(words_host):
    text = fail(words("width: 4", "width: 5"), words_host)
    assert "injectors.0.from: tokens join only at equal width: a is 4 wide, b is 5 wide" in text
    text = fail(words("width: 4", "kind: vector", "film", "decoder"), words_host)
    assert "conditioner 'a' emits tokens" in text


def test_a_plugin_that_is_no_conditioner(words_host):
    recipe = toy("sdm-hv", "conditioners.morphology.type=no_class")
    with pytest.raises(MsdmError, match="its package must load a subclass of Conditioner"):
        check_plugins(recipe, words_host)


@pytest.mark.parametrize("name", ["type", "keys", "a.b"])
def test_names_that_torch_cannot_take(name):
    data = toy("sdm-hv").model_dump(mode="json", by_alias=True)
    data["conditioners"] = {name: data["conditioners"]["morphology"]}
    data["injectors"][0]["from"] = [name]
    assert f"conditioners.{name}: a condition cannot be called {name!r}" in fail(Recipe.model_validate(data))


class Shapeless(Haar):
    """An autoencoder that does not say what its latents are."""

    def __init__(self, config):
        Autoencoder.__init__(self, config)


class Broken(Haar):
    def initialise(self):
        raise KeyError("weights")


class Flat(Haar):
    def __init__(self, config):
        super().__init__(config)
        self.stride = 0


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Shapeless, "Shapeless fails: AttributeError: 'Shapeless' object has no attribute 'channels'"),
        (Broken, "Broken fails: KeyError: 'weights'; mend or update its plugin"),
        (Flat, "Flat) has no channels, or no stride"),
        (HVMaps, "its package must load a subclass of Autoencoder"),
    ],
)
def test_an_autoencoder_that_breaks_its_promises_is_named(host_with, entry, module, cls, reason):
    host = host_with(entry("own", module(msdm_kit_autoencoders=[Plugin("own", "Own.", lambda: cls)])))
    text = fail(toy("sdm-hv", "autoencoder={type: own}"), host)
    assert text.startswith("recipe sdm-hv: autoencoder")
    assert reason in text
