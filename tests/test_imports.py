"""The import contract: core <- conditioners, backbones <- plugins <- cli."""

import ast
import importlib.util
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import msdm_kit
from msdm_kit.plugins.host import get_host

LEGAL = {
    "core": {"core"},
    "conditioners": {"core", "conditioners"},
    "backbones": {"core", "backbones"},
    "plugins": {"core", "conditioners", "backbones", "plugins"},
    "cli": {"core", "conditioners", "backbones", "plugins", "cli"},
    "__main__": {"cli"},
}


def modules() -> dict[str, Path]:
    found = {"msdm_kit": Path(msdm_kit.__file__)}
    for info in pkgutil.walk_packages(msdm_kit.__path__, "msdm_kit."):
        # an editable install finds what lies in the checkout beside the package, too
        if info.name.split(".")[1] in ("benchmarks", "examples"):
            continue
        spec = importlib.util.find_spec(info.name)
        assert spec is not None
        assert spec.origin is not None
        found[info.name] = Path(spec.origin)
    return found


MODULES = modules()


def imported(name: str) -> Iterator[tuple[str, bool]]:
    """What a module imports anywhere in it, also in functions; and whether it says so relatively."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, False
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                yield ".".join([*base, alias.name]), True
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module), False


def layer(module: str) -> str | None:
    """The folder of a module of ours; None for others, and for the root and what it defines."""
    parts = module.split(".")
    return parts[1] if parts[0] == "msdm_kit" and len(parts) > 1 and parts[1] != "__version__" else None


def test_every_folder_is_in_the_contract():
    assert {layer(name) for name in MODULES} == {None, *LEGAL}


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"msdm_kit"}))
def test_dependencies_run_one_way(name):
    legal = LEGAL[str(layer(name))]
    for target, relative in imported(name):
        below = layer(target)
        assert below is None or below in legal, f"{name} imports {target}"
        # relative imports resolve in a plain checkout, where the root's folder has another name
        assert relative or target.split(".")[0] != "msdm_kit", f"{name} imports {target} absolutely"


def test_the_root_imports_nothing_of_ours():
    assert all(target == "importlib" or target == "typing" for target, _ in imported("msdm_kit"))


def test_core_names_no_plugin():
    host = get_host()
    names = {n for kind in ("conditioner", "injector", "backbone") for n in host.names(kind)}
    for name, path in MODULES.items():
        if layer(name) == "core":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            words = {
                n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)
            }
            assert not words & names, name
            assert "importlib" not in {target for target, _ in imported(name)}, name
