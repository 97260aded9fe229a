"""The package as it is installed: what is in it, and what importing it costs."""

import importlib
import os
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import msdm_kit

# .ci/run runs the tests from a copy, against the installed wheel, and says where the checkout is.
CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[1]))
PACKAGE = Path(msdm_kit.__file__).parent
NOT_PACKAGES = {"tests", "build", "dist", "docs", "examples", "benchmarks"}
HEAVY = ("torch", "numpy", "transformers", "timm", "cellpose", "skimage", "scipy", "pydantic", "pluggy")


def project() -> dict:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))


def own_folders() -> list[Path]:
    """Folders at the top of the checkout that people write in: no build output, no environment."""
    return [
        folder
        for folder in CHECKOUT.iterdir()
        if folder.is_dir()
        and not folder.name.startswith(".")
        and folder.name not in ("build", "dist")
        and not (folder / "pyvenv.cfg").exists()
    ]


def python_files() -> list[Path]:
    nested = (path for folder in own_folders() for path in folder.rglob("*.py"))
    return [*CHECKOUT.glob("*.py"), *nested]


def test_the_list_of_packages_is_that_of_the_folders():
    found = {"msdm_kit"}
    for folder in own_folders():
        if folder.name not in NOT_PACKAGES:
            inits = folder.rglob("__init__.py")
            found |= {".".join(("msdm_kit", *i.parent.relative_to(CHECKOUT).parts)) for i in inits}
    assert set(project()["tool"]["setuptools"]["packages"]) == found


def test_no_folder_with_code_lacks_an_init():
    # such a folder is a namespace package: it works in the checkout and is missing from the wheel
    for folder in own_folders():
        if folder.name not in NOT_PACKAGES:
            for path in folder.rglob("*.py"):
                assert (path.parent / "__init__.py").is_file(), path


@pytest.mark.parametrize(
    "pattern",
    [
        "py.typed",
        "core/kernels/*.h",
        "core/kernels/*.cpp",
        "core/kernels/*.cuh",
        "core/kernels/*.cu",
        "plugins/recipes/*.yaml",
        "plugins/plans/*.yaml",
        "plugins/datasets/histology-nuclei/LICENSE",
        "plugins/datasets/histology-nuclei/metadata.csv",
        "plugins/datasets/histology-nuclei/images/*.png",
        "plugins/datasets/histology-nuclei/nuclei/*.png",
        "plugins/datasets/histology-nuclei/cells/*.png",
        "plugins/models/demo/weights.safetensors",
        "plugins/templates/*.html",
        "plugins/templates/plugin/*.txt",
    ],
)
def test_package_data_is_there(pattern):
    installed = sorted(p.relative_to(PACKAGE) for p in PACKAGE.glob(pattern))
    assert installed
    assert installed == sorted(p.relative_to(CHECKOUT) for p in CHECKOUT.glob(pattern))


def test_the_version_is_the_same_everywhere():
    assert project()["project"]["version"] == msdm_kit.__version__
    assert f"[{msdm_kit.__version__}]" in (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_licence_is_apache_2_0_unchanged():
    text = (CHECKOUT / "LICENSE").read_text(encoding="utf-8")
    assert text.lstrip().startswith("Apache License\n                           Version 2.0, January 2004")
    assert text.rstrip().endswith("limitations under the License.")
    assert project()["project"]["license"] == "Apache-2.0"


@pytest.mark.parametrize("module", ["msdm_kit", "msdm_kit.cli.main"])
def test_importing_is_light(module):
    heavy = [name for name in HEAVY if module == "msdm_kit" or name in HEAVY[:6]]
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", msdm_kit.__all__)
def test_every_public_name_resolves(name):
    assert getattr(msdm_kit, name) is not None
    assert name in dir(msdm_kit)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Pipelin"):
        msdm_kit.Pipelin  # noqa: B018


def test_the_command_is_an_entry_point():
    target = project()["project"]["scripts"]["msdm-kit"]
    module, _, attribute = target.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_files_stay_short():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    longest = max(lines, key=lines.__getitem__)
    assert lines[longest] <= 400, f"{longest}: {lines[longest]} lines"
    assert statistics.median(lines.values()) < 200
