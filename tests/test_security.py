"""What the package must never do with what it reads: run it."""

import ast
import importlib.util
import pkgutil
from pathlib import Path

import pytest

import msdm_kit

# The exception is caught, never the module used.
HARMLESS = {"pickle.UnpicklingError"}
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
UNPICKLING = {"torch.load", "torch.jit.load", "torch.serialization.load"}
UNSAFE_YAML = {
    f"yaml.{name}"
    for name in (
        *("Loader", "FullLoader", "UnsafeLoader", "CLoader", "CFullLoader", "CUnsafeLoader"),
        *("full_load", "full_load_all", "unsafe_load", "unsafe_load_all", "load", "load_all"),
    )
}

# not to be named at all, so that none is called by another name
UNNAMED = UNSAFE_YAML | UNPICKLING


def sources() -> dict[str, Path]:
    found = {"msdm_kit": Path(msdm_kit.__file__)}
    for info in pkgutil.walk_packages(msdm_kit.__path__, "msdm_kit."):
        found[info.name] = Path(str(getattr(importlib.util.find_spec(info.name), "origin", "")))
    return found


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def faults(source: str) -> list[str]:
    """What a module does that it must not."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            if node.module.split(".")[0] in UNSAFE_MODULES and not names <= HARMLESS:
                found.append(f"imports {sorted(names)}")
            found += [f"imports {name}" for name in names & (UNSAFE_YAML | UNSAFE_CALLS)]
            if node.module in ("torch", "numpy") and any(alias.name == "load" for alias in node.names):
                found.append(f"imports load of {node.module}: call it by its full name")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.split(".")[0]
                if root in UNSAFE_MODULES and (root != "pickle" or alias.asname):
                    found.append(f"imports {alias.name}")
        elif isinstance(node, ast.Attribute):
            name = dotted(node)
            if name in UNNAMED or (name.split(".")[0] in UNSAFE_MODULES and name not in HARMLESS):
                found.append(f"uses {name}")
        elif isinstance(node, ast.Call):
            found += call_faults(node)
    return found


def call_faults(node: ast.Call) -> list[str]:
    name = dotted(node.func)
    given = {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)}
    found = []
    if name in UNSAFE_CALLS:
        found.append(f"calls {name}")
    if name == "torch.load" and given.get("weights_only") is not True:
        found.append("calls torch.load without weights_only=True")
    if name in ("np.load", "numpy.load") and given.get("allow_pickle") is not False:
        found.append("np.load without allow_pickle=False")
    if given.get("shell"):
        found.append(f"{name} through a shell")
    if given.get("trust_remote_code"):
        found.append(f"{name} runs code of the Hub")
    return found


# The first is the converter of weights, the one place where tensors are read of what torch.save wrote. The
# second subclasses the unpickler so that it may name arrays only; tests/plugins/test_importers_damage.py
# tries it. The third reads what it wrote in the same call, as a loader worker would.
RESTRICTED = {
    "msdm_kit.plugins.convert_weights": {"uses torch.load"},
    "msdm_kit.plugins.importers.seg_npy": {"uses pickle.Unpickler"},
    "msdm_kit.plugins.testing.pickling": {"uses pickle.dumps", "uses pickle.loads"},
}


@pytest.mark.parametrize(("name", "path"), sources().items())
def test_nothing_read_is_run(name, path):
    assert set(faults(path.read_text(encoding="utf-8"))) == RESTRICTED.get(name, set())


@pytest.mark.parametrize(
    "source",
    [
        "import pickle; pickle.load(f)",
        "import pickle as p",
        "from pickle import loads",
        "import dill",
        "import torch; torch.load(f)",
        "import torch; torch.load(f, weights_only=False)",
        "import torch; torch.load(f, weights_only=True)",
        "import torch; read = torch.load",
        "import torch; torch.jit.load(f)",
        "from torch import load",
        "import numpy as np; np.load(f)",
        "import numpy as np; np.load(f, allow_pickle=True)",
        "import yaml; yaml.load(f, Loader=yaml.SafeLoader)",
        "import yaml\nclass L(yaml.Loader): pass",
        "from yaml import unsafe_load",
        "def f(): eval('1')",
        "exec('1')",
        "import subprocess; subprocess.run('ls', shell=True)",
        "A.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_the_scan_finds(source):
    assert faults(source)


@pytest.mark.parametrize("how", ["", "weights_only=False"])
def test_the_converter_reads_nothing_but_tensors(how):
    wanted = RESTRICTED["msdm_kit.plugins.convert_weights"]
    assert set(faults("import torch; torch.load(f, weights_only=True)")) == wanted
    assert set(faults(f"import torch; torch.load(f, {how})")) > wanted


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\ntry: pass\nexcept pickle.UnpicklingError: pass",
        "import yaml; yaml.safe_load(f)",
        "import yaml\nclass L(yaml.SafeLoader): pass",
        "model.eval()",
        "import re; re.compile('x')",
    ],
)
def test_the_scan_lets_pass(source):
    assert not faults(source)
