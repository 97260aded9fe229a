"""What a recipe, a data set and an experiment's plan that a package brings owe those who name them."""

from pathlib import Path

from ...core.dataset import FieldDataset
from ...core.fields import mask_kinds
from ...core.manifest import read_manifest
from ..build import build_conditioners, build_denoiser
from ..check import check_plugins
from ..experiment.plan_files import load_plan
from ..host import get_host
from ..recipe_files import dump_recipe, load_recipe
from .case import Conformance
from .fields import toy_sample


class FileConformance(Conformance):
    """A plugin that is a path."""

    def test_is_there(self) -> None:
        path = self.load()
        self.check(isinstance(path, Path) and path.exists(), f"{path} is not there; is it package data?")


class RecipeConformance(FileConformance):
    """The checks of a recipe. Its `toy` overrides make it small enough to be built in a second.

    Attributes
    ----------
    toy : tuple of str
        ``a.b=c``, as ``--set`` takes them.
    """

    kind = "recipe"
    toy: tuple[str, ...] = (
        "backbone={channels: 32, multipliers: [1, 1], blocks: 1, attention_strides: [], head_channels: 32}",
        "backbone.groups=8",
        "data.crop=32",
    )

    def test_is_legal_and_names_plugins_that_are_there(self) -> None:
        recipe = load_recipe(self.plugin)
        check_plugins(recipe, get_host())
        self.check(recipe.name == self.plugin, f"calls itself {recipe.name!r}")

    def test_comes_back_from_its_yaml(self, tmp_path: Path) -> None:
        recipe = load_recipe(self.plugin)
        (tmp_path / "again.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
        self.check(load_recipe(tmp_path / "again.yaml") == recipe, "is another after writing and reading")

    def test_is_built(self) -> None:
        recipe = load_recipe(self.plugin, self.toy)
        rows = [dict(toy_sample(i).metadata) for i in range(3)]
        conditioners = build_conditioners(recipe, rows=rows)
        denoiser = build_denoiser(recipe, conditioners)
        self.check(set(denoiser.names) == set(recipe.conditioners), "a condition is lost")


class DatasetConformance(FileConformance):
    """The checks of a data set that comes with a package: every file is read."""

    kind = "dataset"

    def test_every_field_is_sound(self) -> None:
        root = self.load()
        rows, kinds = read_manifest(root / "metadata.csv"), tuple(mask_kinds(root))
        fields = FieldDataset(root, masks=kinds)
        self.check(len(fields) == len(rows) > 0, f"{len(rows)} rows of the manifest are {len(fields)} fields")
        self.check(kinds, "has no masks")
        splits = {row.get("split", "") for row in rows}
        self.check("train" in splits, f"has no field to train on; its splits are {sorted(splits)}")


class PlanConformance(FileConformance):
    """The checks of an experiment's plan."""

    kind = "plan"

    def test_is_legal(self) -> None:
        load_plan(self.load())
