import os
import subprocess
import sys
from pathlib import Path

import pluggy
import pytest

from msdm_kit.core.conditioning import PluginConfig
from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins import builtin
from msdm_kit.plugins.descriptor import Plugin, lazy
from msdm_kit.plugins.hookspecs import KINDS, hook_name, hookimpl
from msdm_kit.plugins.host import BLOCK_VARIABLE, Origin, blocking, get_host

SQRT = Plugin("sqrt", "Square root.", lazy("math:sqrt"))


def test_third_party_plugin_is_listed_and_loads(host_with, entry, module):
    host = host_with(entry("extra", module(msdm_kit_solvers=[SQRT])))
    assert host.problems == []
    assert "sqrt" in host.names("solver")
    assert host.get("solver", "sqrt") is SQRT
    assert host.load("solver", "sqrt")(9) == 3
    (row,) = [r for r in host.listing() if r.name == "sqrt"]
    assert (row.kind, row.package, row.version, row.state) == ("solver", "extra-package", "1.2", "ok")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (ModuleNotFoundError("No module named 'gone'"), "does not import: ModuleNotFoundError: No module"),
        (SystemExit(3), "does not import: SystemExit"),
        ({"msdm_kit_injector": []}, "no hook 'msdm_kit_injector'; did you mean 'msdm_kit_injectors'?"),
        ({"something": []}, "no hook 'something'; legal: msdm_kit_autoencoders, msdm_kit_backbones"),
        ({"msdm_kit_solvers": ["sqrt"]}, "msdm_kit_solvers returns str 'sqrt'; return a list of Plugin"),
        ({"msdm_kit_solvers": None}, "msdm_kit_solvers fails: TypeError"),
        ({"msdm_kit_solvers": RuntimeError("two\nlines")}, "msdm_kit_solvers fails: RuntimeError: two lines"),
        (
            {"msdm_kit_injectors": [Plugin("spade", "", int)]},
            "the name 'spade' is taken by injector of msdm-kit",
        ),
        ({}, "implements no hook"),
        ({"msdm_kit_solvers": SystemExit(1)}, "msdm_kit_solvers fails: SystemExit: 1"),
        ({"msdm_kit_solvers": [Plugin("a b", "", int)]}, "names a plugin 'a b'; write letters, digits"),
        ({"msdm_kit_solvers": [Plugin("a", "", int, config=3)]}, "return a list of Plugin"),
        (
            {"msdm_kit_commands": [Plugin("train", "", int)]},
            "the name 'train' is taken by command of msdm-kit; choose another",
        ),
        (
            {"level": 2, "msdm_kit_solvers": [SQRT]},
            "is written for plugin API 2, and this msdm-kit has 1: update msdm-kit (pip install -U msdm-kit)",
        ),
        (
            {"level": 0, "msdm_kit_solvers": [SQRT]},
            "is written for plugin API 0, and this msdm-kit takes 1 to 1: update the package "
            "(pip install -U bad-package)",
        ),
        ({"level": "one"}, "MSDM_KIT_API is 'one'; write a whole number, such as 1"),
        ({"level": True}, "MSDM_KIT_API is 'True'; write a whole number, such as 1"),
    ],
)
def test_broken_package_is_recorded_and_harms_no_other(host_with, entry, module, broken, reason):
    bad = module(**broken) if isinstance(broken, dict) else broken
    good = entry("zz", module(msdm_kit_solvers=[SQRT]))
    host = host_with(entry("bad", bad), good)
    (problem,) = host.problems
    assert (problem.plugin, problem.package, problem.version) == ("bad", "bad-package", "1.2")
    assert reason in problem.reason
    assert "\n" not in problem.reason
    assert host.load("solver", "sqrt")(4) == 2
    assert host_with(good).names("injector") == host.names("injector")
    assert host.listing()[-1].state == f"problem: {problem.reason}"
    assert not host.listing()[-1].usable


def test_package_without_a_level_works_with_a_warning(host_with, entry, module):
    host = host_with(entry("old", module(None, msdm_kit_solvers=[SQRT])))
    (row,) = [r for r in host.listing() if r.name == "sqrt"]
    assert (row.api, row.state, row.usable) == (None, "warning: states no MSDM_KIT_API", True)
    assert host.load("solver", "sqrt")(9) == 3
    assert host.problems == []


def test_origin_names_package_version_and_level(host_with, entry, module):
    host = host_with(entry("extra", module(msdm_kit_solvers=[SQRT])))
    assert host.origin("solver", "sqrt") == Origin("extra", "extra-package", "1.2", 1)
    assert host.origin("injector", "spade").package == "msdm-kit"
    with pytest.raises(MsdmError, match="no solver 'gone'"):
        host.origin("solver", "gone")


def test_config_is_that_of_the_descriptor_else_of_the_class(host_with, entry, module):
    own = Plugin("own", "", lazy("msdm_kit.no_such_module:Thing"), config=lambda: PluginConfig)
    broken = Plugin("broken", "", int, config=lazy("msdm_kit.no_such_module:Thing"))
    host = host_with(entry("extra", module(msdm_kit_solvers=[own, broken, SQRT])))
    assert host.config("solver", "own") is PluginConfig
    assert host.config("solver", "sqrt") is None
    assert host.config("injector", "spade") is host.load("injector", "spade").Config
    with pytest.raises(
        MsdmError, match=r"solver 'broken' of extra-package 1\.2 does not load: ModuleNotFound"
    ):
        host.config("solver", "broken")


def test_commands_of_msdm_kit_are_not_blocked(host_with):
    assert "train" in host_with(environment="train").names("command")


def test_blocking_lasts_as_long_as_its_block(host_with, entry, monkeypatch):
    host_with(entry("extra", AssertionError("imported")), environment="film")
    get_host.cache_clear()
    try:
        with blocking(["spade", "extra"]):
            assert os.environ[BLOCK_VARIABLE] == "film,spade,extra"
            assert not {"film", "spade"} & set(get_host().names("injector"))
            assert get_host().problems == []
        assert os.environ[BLOCK_VARIABLE] == "film"
        assert "spade" in get_host().names("injector")
        with pytest.raises(MsdmError, match="no plugin or package 'spad' to leave out"), blocking(["spad"]):
            pytest.fail("entered")
        monkeypatch.delenv(BLOCK_VARIABLE)
        with blocking(["spade"]):
            assert os.environ[BLOCK_VARIABLE] == "spade"
        assert BLOCK_VARIABLE not in os.environ
    finally:
        get_host.cache_clear()


def test_hook_with_an_argument_is_refused(host_with, entry, module):
    bad = module(msdm_kit_solvers=[SQRT])
    bad.msdm_kit_injectors = hookimpl(lambda colour: [])
    bad.msdm_kit_injectors.__name__ = "msdm_kit_injectors"
    host = host_with(entry("bad", bad))
    assert "sqrt" not in host.names("solver")
    assert "does not register: PluginValidationError" in host.problems[0].reason
    assert host.names("injector") == host_with().names("injector")


def test_unmarked_hook_is_refused(host_with, entry, module):
    bad = module()
    bad.msdm_kit_solvers = lambda: [SQRT]
    (problem,) = host_with(entry("bad", bad)).problems
    assert problem.reason == "msdm_kit_solvers is not marked with @hookimpl"


def test_a_hook_of_a_later_version_may_be_optional(host_with, entry, module):
    later = module(msdm_kit_solvers=[SQRT])
    later.msdm_kit_importers = pluggy.HookimplMarker("msdm_kit")(lambda: [], optionalhook=True)
    assert host_with(entry("later", later)).problems == []


def test_of_two_packages_with_one_name_the_first_by_package_wins(host_with, entry, module):
    def load_of(value: str) -> Plugin:
        return Plugin("same", "", lambda: value)

    a = entry("x", module(msdm_kit_solvers=[load_of("a")]), "a-package")
    b = entry("x", module(msdm_kit_solvers=[load_of("b")]), "b-package")
    for order in ((a, b), (b, a)):
        host = host_with(*order)
        assert host.load("solver", "same") == "a"
        assert [p.package for p in host.problems] == ["b-package"]


@pytest.mark.parametrize("name", ["extra", "extra-package"])
def test_blocked_package_is_not_even_imported(host_with, entry, name):
    host = host_with(entry("extra", AssertionError("imported")), block=(name,))
    assert host.problems == []
    assert host.listing()[-1].state == "blocked"
    assert host_with(entry("extra", AssertionError("imported")), environment=f"a, {name}").problems == []


def test_blocked_plugin_says_so(host_with):
    host = host_with(environment="spade")
    assert "spade" not in host.names("injector")
    with pytest.raises(MsdmError, match="injector 'spade' is blocked; take it off MSDM_KIT_NO_PLUGIN"):
        host.get("injector", "spade")


def test_unknown_names_are_answered(host_with):
    host = host_with()
    with pytest.raises(MsdmError, match="no injector 'spad'; did you mean 'spade'"):
        host.get("injector", "spad")
    with pytest.raises(MsdmError, match="no plugin kind 'injectors'; did you mean 'injector'"):
        host.names("injectors")


def test_plugin_that_fails_to_load_names_its_package(host_with, entry, module):
    plugin = Plugin("gone", "", lazy("msdm_kit.no_such_module:Thing"))
    host = host_with(entry("extra", module(msdm_kit_solvers=[plugin])))
    with pytest.raises(MsdmError, match=r"solver 'gone' of extra-package 1\.2 does not load: ModuleNotFound"):
        host.load("solver", "gone")


def test_builtins_implement_every_hook_and_all_load(host_with):
    host = host_with()
    assert all(hasattr(builtin, hook_name(kind)) for kind in KINDS)
    for kind in KINDS:
        assert host.names(kind)
        for name in host.names(kind):
            thing = host.load(kind, name)
            does = getattr(thing, "compute", thing)  # of a metric, which is a description with a function
            assert thing.exists() if isinstance(thing, Path) else callable(does)
            assert host.get(kind, name).summary


def test_listing_imports_nothing_heavy():
    code = (
        "import sys; from msdm_kit.plugins.host import Host; Host(); "
        "print([m for m in ('torch', 'transformers', 'skimage', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_host_of_the_process_is_one():
    assert get_host() is get_host()


@pytest.mark.parametrize("target", ["math", "math:", ":sqrt"])
def test_lazy_refuses_half_a_target(target):
    with pytest.raises(ValueError, match=r"package\.module:attribute"):
        lazy(target)
