"""What an experiment is: the plan, validated."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from ...core.errors import MsdmError, did_you_mean
from ...core.recipe import PluginEntry, Section
from ..metrics.distance import read_distance

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=40)]
"""Of a generator, an arm or a test set: it names folders."""

MOST_SEEDS = 1000


def _seeds(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError(f"{value} repeats are none; give 1 or more, or a list of seeds")
        if value > MOST_SEEDS:
            raise ValueError(f"{value} repeats of every segmenter; legal are 1 to {MOST_SEEDS}")
        return tuple(range(value))
    return value


def _distance(text: str) -> str:
    try:
        read_distance(text)
    except MsdmError as error:
        raise ValueError(str(error)) from None
    return text


Seeds = Annotated[tuple[int, ...], BeforeValidator(_seeds)]


class SplitsSection(Section):
    """Values of the manifest's column ``split``."""

    train: str = Field("train", description="Generators and segmenters are trained on it.")
    validation: str = Field("val", description="The same for every training; never trained on.")


class TestEntry(Section):
    """A set of fields that segmenters are measured on."""

    __test__ = False  # no test of pytest's

    split: str
    title: str = Field("", description="As tables call it; its name where empty.")


class GeneratorEntry(Section):
    """A diffusion model that is trained and paints."""

    recipe: str = Field(description="By name, or the path of a YAML file, relative to the plan's.")
    title: str = Field("", description="As tables call it; its name where empty.")
    set: tuple[str, ...] = Field((), description="Changes of the recipe, as `--set` takes them.")
    steps: int | None = Field(None, ge=1, description="Optimiser steps, in place of the recipe's length.")
    epochs: int | None = Field(None, ge=1, description="Epochs, in place of the recipe's length.")
    sampling: dict[str, Any] = Field(
        default_factory=dict, description="Changes of the recipe's `sample` section, such as {steps: 8}."
    )

    @model_validator(mode="after")
    def _one_length(self) -> "GeneratorEntry":
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps and epochs are both given; give one of them")
        return self

    @property
    def overrides(self) -> list[str]:
        """What `load_recipe` is given."""
        length = {"steps": self.steps, "epochs": self.epochs}
        given = [(key, value) for key, value in length.items() if value is not None]
        other = {"steps": "epochs", "epochs": "steps"}
        changes = [
            text for key, value in given for text in (f"train.{other[key]}=null", f"train.{key}={value}")
        ]
        # JSON is YAML
        sampling = [f"sample.{key}={json.dumps(value)}" for key, value in self.sampling.items()]
        return [*self.set, *changes, *sampling]


class SelectionSection(Section):
    """Which training fields are painted anew; see `msdm-kit data select`."""

    where: str | None = Field(None, description="An expression; null takes every training field.")
    sort: str | None = Field(None, description="A number, largest first.")
    limit: int | None = Field(None, ge=1, description="The first so many of those that match.")


class SynthesisSection(Section):
    """How they are painted; the same masks, donors and seed for every generator."""

    versions: int = Field(8, ge=1, description="Paintings of each selected field.")
    recombine: tuple[Literal["appearance", "metadata"], ...] = Field(
        ("appearance", "metadata"), description="Facets that are taken from another selected field."
    )
    separate_donors: bool = Field(False, description="Appearance and metadata from different fields.")
    seed: int = Field(0, description="Of noise and of the matches.")
    batch: int = Field(4, ge=1, description="Fields that a GPU paints at once.")


class ArmEntry(Section):
    """What segmenters are trained on, beside the real training fields."""

    generators: tuple[str, ...] = ()
    title: str = Field("", description="As tables call it; its name where empty.")


class FidelitySection(Section):
    """Paintings of real fields with their own masks, colours and metadata, beside those fields."""

    embedder: PluginEntry = PluginEntry(type="descriptors")
    groups: tuple[str, ...] = Field(("assay", "indication"), description="Columns of the manifest.")
    split: str | None = Field(None, description="Fields that are painted; null: the validation split.")
    versions: int = Field(1, ge=1, description="Paintings of each field.")


class SignificanceSection(Section):
    """The Wilcoxon signed-rank test, with Holm's correction."""

    level: float = Field(0.05, gt=0, lt=1, description="Of the corrected p-values.")


class Plan(Section):
    """A whole experiment."""

    name: Name
    summary: str = ""
    data: str = Field("histology-nuclei", description="A folder, relative to the plan's, or a set by name.")
    splits: SplitsSection = SplitsSection()
    tests: dict[Name, TestEntry] = Field(min_length=1, description="Test sets, by name.")
    annotator: Name = Field("truth", description="What results call whoever made the masks of `data`.")
    annotators: dict[Name, str] = Field(
        default_factory=dict, description="Data sets with the same ids and other annotators' masks."
    )
    generators: dict[Name, GeneratorEntry] = Field(min_length=1)
    selection: SelectionSection = SelectionSection()
    synthesis: SynthesisSection = SynthesisSection()
    arms: dict[Name, ArmEntry] = Field(
        default_factory=dict, description="By default `baseline`, and one for each generator."
    )
    segmenter: PluginEntry = PluginEntry(type="scratch-small")
    kinds: tuple[str, ...] = Field(("cell", "nucleus"), min_length=1, description="Mask kinds.")
    seeds: Seeds = Field(
        (0, 1, 2, 3, 4), min_length=1, description="Of the repeated segmenters: a list, or how many."
    )
    columns: tuple[str, ...] = Field((), description="Metrics of Table 1; by default those of the paper.")
    distance: Annotated[str, AfterValidator(_distance)] = Field(
        "6px", description="Largest distance of the centres of one instance, in px or um."
    )
    fidelity: FidelitySection = FidelitySection()
    significance: SignificanceSection = SignificanceSection()

    @model_validator(mode="before")
    @classmethod
    def _default_arms(cls, value: Any) -> Any:
        generators = value.get("generators") if isinstance(value, dict) else None
        if not isinstance(generators, dict) or value.get("arms"):
            return value
        titles = {
            name: entry.get("title", "") for name, entry in generators.items() if isinstance(entry, dict)
        }
        own = {name: {"generators": [name], "title": titles.get(name, "")} for name in generators}
        return {**value, "arms": {"baseline": {"title": "Baseline"}, **own}}

    @model_validator(mode="after")
    def _fits(self) -> "Plan":
        for name, arm in self.arms.items():
            for generator in arm.generators:
                if generator not in self.generators:
                    hint = did_you_mean(generator, self.generators)
                    raise ValueError(f"arms.{name}.generators: no generator {generator!r}; {hint}")
            if len(set(arm.generators)) < len(arm.generators):
                raise ValueError(f"arms.{name}.generators: one is named twice; name it once")
        bare = [name for name, arm in self.arms.items() if not arm.generators]
        if len(bare) != 1:
            raise ValueError(f"arms: {len(bare)} arms without generators; give one, the baseline")
        used = {generator for arm in self.arms.values() for generator in arm.generators}
        if unused := sorted(set(self.generators) - used):
            raise ValueError(f"generators.{unused[0]}: no arm uses it; name it in one, or leave it out")
        if self.annotator in self.annotators:
            raise ValueError(f"annotators.{self.annotator}: the name of `annotator`; choose another")
        for what, names in (("seeds", self.seeds), ("kinds", self.kinds), ("columns", self.columns)):
            if len(set(names)) < len(names):
                raise ValueError(f"{what}: {names!r} holds one twice; name each once")
        held = [self.splits.train, self.splits.validation]
        for name, test in self.tests.items():
            if test.split in held:
                raise ValueError(
                    f"tests.{name}.split: {test.split!r} is trained or validated on; take another"
                )
        if self.splits.train == self.splits.validation:
            raise ValueError(f"splits.validation: {self.splits.train!r} is trained on; take another")
        if self.fidelity.split == self.splits.train:
            raise ValueError(f"fidelity.split: {self.splits.train!r} is trained on; take another")
        return self

    @property
    def baseline(self) -> str:
        """The arm of real fields alone."""
        return next(name for name, arm in self.arms.items() if not arm.generators)

    @property
    def fidelity_split(self) -> str:
        """The split whose fields are painted to be compared with them."""
        return self.fidelity.split or self.splits.validation

    def title(self, arm: str) -> str:
        """What tables call an arm."""
        return self.arms[arm].title or arm

    def test_title(self, test: str) -> str:
        """What tables call a test set."""
        return self.tests[test].title or test
