"""The packages in examples/: installed into a clean environment, they pass their tests, train and paint."""

import re
import shlex

from .packages import CHECKOUT, copy_of, shell_blocks, small

SMALLER = {"density": [], "reference": ["conditioners.reference.model=test_vit"], "stain": []}
PACKAGES = sorted(p.parent for p in (CHECKOUT / "examples").glob("*/pyproject.toml"))


def test_they_are_what_their_readmes_say(environment, tmp_path):
    assert [p.name for p in PACKAGES] == [f"msdm-kit-{name}" for name in SMALLER]
    copies = [copy_of(package, tmp_path) for package in PACKAGES]
    environment.run(
        f"pip install --no-compile {shlex.join(f'./{c.name}[test]' for c in copies)}", at=tmp_path
    )
    lines = []
    for name, copy in zip(SMALLER, copies, strict=True):
        assert environment.origin(f"msdm_kit_{name}").is_relative_to(environment.folder)
        install, test, train = shell_blocks(copy / "README.md")[0].splitlines()
        assert (install, test) == ('pip install -e ".[test]"', "pytest")
        lines += [small(train, SMALLER[name])]
        lines += [f"msdm-kit sample runs/{name} --data histology-nuclei --n 1 --out painted/{name}"]
    said = environment.run(f"pytest -q -rA {shlex.join(c.name for c in copies)}", at=tmp_path)
    for name in SMALLER:
        assert len(re.findall(rf"^PASSED .*/test_{name}\.py::", said, re.M)) > 20
    environment.commands(lines, at=tmp_path)
    for name in SMALLER:
        assert len(list((tmp_path / "painted" / name / "images").glob("*.png"))) == 1
