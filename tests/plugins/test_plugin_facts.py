"""What `plugins show` says, read from the plugins themselves."""

from typing import Literal

import pytest
from pydantic import Field

from msdm_kit.core.conditioning import Conditioner, PluginConfig, Spec
from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.descriptor import Plugin
from msdm_kit.plugins.hookspecs import KINDS
from msdm_kit.plugins.plugin_facts import find_plugin, plugin_facts


class Part(PluginConfig):
    a: int = 0
    b: str = ""


class Settings(PluginConfig):
    count: int = Field(3, ge=1, lt=9, description="How many.")
    mode: Literal["soft", "hard"] = Field("soft", description="Which way.")
    limit: float | None = Field(None, gt=0)
    names: tuple[str, ...] = Field(("a", "b"), min_length=1)
    pair: tuple[int, float] = (1, 2.0)
    part: Part = Part()
    column: str = Field(min_length=1)


class Wide(Conditioner):
    Config = Settings
    reads = frozenset({"metadata", "morphology"})

    def __init__(self, config, facts):
        super().__init__(config, facts)
        self.spec = Spec("map", config.count)

    observe = encode = null = lambda self, x: x


@pytest.fixture
def host(host_with, entry, module):
    plugin = Plugin("wide", "A map.", lambda: Wide, source="A. Author 2020")
    return host_with(entry("extra", module(msdm_kit_conditioners=[plugin])))


def test_settings_are_told_with_defaults_and_legal_values(host):
    told = {
        s.key: (s.legal, s.default, s.description) for s in plugin_facts("conditioner", "wide", host).settings
    }
    assert told == {
        "count": ("integer, at least 1, less than 9", "3", "How many."),
        "mode": ("soft | hard", '"soft"', "Which way."),
        "limit": ("number, more than 0 | null", "null", ""),
        "names": ("list of string, not empty", '["a", "b"]', ""),
        "pair": ("list of integer, number", "[1, 2.0]", ""),
        "part": ("{a, b}", '{"a": 0, "b": ""}', ""),
        "column": ("string, not empty", "required", ""),
    }


def test_conditioner_says_what_it_reads_emits_and_who_takes_it(host):
    facts = plugin_facts("conditioner", "wide", host)
    assert facts.lines["source"] == "A. Author 2020"
    assert facts.lines["reads"] == "metadata, morphology"
    assert facts.lines["emits"] == "map, 3 wide at the default settings"
    assert facts.lines["injectors"] == "concat, spade"
    assert facts.origin.package == "extra-package"


@pytest.mark.parametrize(
    ("name", "emits", "injectors"),
    [
        ("hv_maps", "map, 4 wide", "concat, spade"),
        ("bert_text", "tokens, 128 wide", "cross_attention"),
        ("class_label", "vector, 128 wide", "film"),
    ],
)
def test_forms_of_the_built_in_conditions_are_known(host, name, emits, injectors):
    lines = plugin_facts("conditioner", name, host).lines
    assert (lines["emits"], lines["injectors"]) == (f"{emits} at the default settings", injectors)


def test_injector_says_what_it_takes_and_where(host):
    lines = plugin_facts("injector", "film", host).lines
    assert (lines["takes"], lines["sites"]) == ("vector", "embedding, norm")


def test_condition_that_cannot_be_built_says_on_what_it_depends(host, monkeypatch):
    monkeypatch.setattr(Wide, "__init__", lambda self, config, facts: 1 / 0)
    assert plugin_facts("conditioner", "wide", host).lines["emits"] == "what its settings and the data say"


def test_every_plugin_of_every_kind_can_be_shown(host):
    for kind in KINDS:
        for name in host.names(kind):
            facts = plugin_facts(kind, name, host)
            assert facts.plugin.summary
            assert all(s.legal and s.default for s in facts.settings), (kind, name)


def test_a_name_is_found_with_its_kind_or_alone(host):
    assert find_plugin("spade", host=host) == ("injector", "spade")
    assert find_plugin("mask-operation", "mix", host) == ("mask_operation", "mix")
    for words, said in (
        (
            ("cellpose",),
            "'cellpose' is of several kinds: importer, exporter; say which: plugins show importer cel",
        ),
        (("spad",), "no plugin 'spad'; did you mean 'spade'"),
        (("injector", "spad"), "no injector 'spad'"),
        (("thing", "spade"), "no plugin kind 'thing'"),
    ):
        with pytest.raises(MsdmError, match=said):
            find_plugin(*words, host=host)


def test_what_is_left_out_says_why(host_with, entry):
    host = host_with(entry("bad", ValueError("gone")))
    for name in ("bad", "bad-package"):
        with pytest.raises(MsdmError, match="left out: problem: does not import: ValueError: gone"):
            find_plugin(name, host=host)
