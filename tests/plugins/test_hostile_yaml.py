"""YAML that fuzzing has found the reader of recipes to fall over, each in its smallest form."""

import pytest
import yaml

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.recipe_yaml import parse


def refused(call, *arguments):
    with pytest.raises(MsdmError) as caught:
        call(*arguments)
    return str(caught.value)


TENS = ",".join(["*{}"] * 10)
LAUGHS = "a: &a [1]\n" + "".join(
    f"{b}: &{b} [{TENS}]\n".replace("{}", a) for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{TENS}]}}\n".replace("{}", a) for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &x [*x]", "line 1, column 4: an alias within what it stands for"),
        ("&a {b: *a}", "an alias within"),
        ("a: &x {<<: *x}", "an alias within"),
        (LAUGHS, "with its aliases written out it has more than 100000 values"),
        (MERGES, "with its aliases written out"),
        ("[" * 60 + "]" * 60, "nested too deeply"),
        ("[" * 5000, "nested too deeply"),
        # before it is read on: each token takes PyYAML a time that grows with the brackets that are open
        ("[" * 900 + "a," * 900, "line 1, column 41: nested too deeply"),
        ("a: " + "{a: " * 50, "column 164: nested too deeply"),
        ("- " * 2000 + "a", "nested too deeply"),
        ("a: " + "1:" * 300 + "1.5", "a number of 603 characters"),
        ("a: 0x" + "f" * 5000, "a number of 5002 characters"),
        ("a: !!float ''", "'' is no number"),
        ("a: !!int x", "'x' is no number"),
        ("a: !!bool 3", "a tag (!!...) is on a value of another type"),
        ("a: !!timestamp x", "a tag (!!...)"),
        ("a: !!set [1]", "a tag (!!...)"),
        ("a: 2001-99-99", "not legal YAML"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_yaml_that_is_refused(text, says):
    assert says in refused(parse, text, "recipe x.yaml")


def test_yaml_that_shares_and_counts_is_read():
    assert parse("a: &x [1, 2]\nb: *x\nc: {<<: {d: 1:30}, e: 1_000}\n", "x") == {
        "a": [1, 2], "b": [1, 2], "c": {"d": 90, "e": 1000},
    }  # fmt: skip
    many = {f"k{i}": list(range(10)) for i in range(500)}
    assert parse(yaml.safe_dump(many), "x") == many


def test_a_recipe_is_of_a_size_that_is_read(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"# " + b"x" * 2**20)
    assert "at most 262144 are read" in refused(load_recipe, tmp_path / "r.yaml")


def test_a_recipe_that_extends_a_name_no_file_can_have(tmp_path):
    (tmp_path / "r.yaml").write_text(f"extends: {'x' * 300}\n")
    assert "no recipe 'xxx" in refused(load_recipe, tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text('extends: "a\\0b"\n')
    assert "no recipe" in refused(load_recipe, tmp_path / "r.yaml")
