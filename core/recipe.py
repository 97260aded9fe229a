"""The recipe: everything that makes a run, validated.

A recipe names plugins by their `type`; their own settings are checked by their own `Config` when the recipe
is built (`msdm_kit.plugins.build`), so that the engine knows no concrete plugin.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from .errors import did_you_mean

Precision = Literal["fp32", "bf16"]
Prediction = Literal["eps", "x0", "v"]
Variance = Literal["fixed_small", "fixed_large", "learned_range"]
Spacing = Literal["leading", "trailing", "linspace", "logsnr", "karras"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Momentum = Annotated[float, Field(ge=0.0, lt=1.0)]


def _auto_or_bool(value: Any) -> Any:
    if value != "auto" and not isinstance(value, bool):
        raise ValueError(f"{value!r} is not legal; legal: auto, true, false")
    return value


def _auto_or_count(value: Any) -> Any:
    if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ValueError(f"{value!r} is not legal; legal: auto, or a whole number from 0")
    return value


KEPT = r"^(nothing|unchanged|(inside|outside):[A-Za-z0-9][A-Za-z0-9_-]*)$"
"""What `SampleSection.keep` may be."""

AutoBool = Annotated[bool | Literal["auto"], BeforeValidator(_auto_or_bool)]
AutoCount = Annotated[int | Literal["auto"], BeforeValidator(_auto_or_count)]


class Section(BaseModel):
    """Base of the sections: unknown keys are refused, and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSection(Section):
    """What is read, and how it is augmented before any condition is observed."""

    masks: tuple[str, ...] = Field(("cell", "nucleus"), description="Mask kinds that must be present.")
    crop: int = Field(512, ge=8, description="Side of the square training crop, in pixels.")
    flips: bool = Field(True, description="Random flips.")
    turns: bool = Field(True, description="Random right-angle turns.")
    train_split: str = Field("train", description="Value of the manifest's `split` column to train on.")
    validation_split: str = Field("val", description="Value of `split` for validation loss and previews.")


class PluginEntry(BaseModel):
    """A plugin by name, with settings that its own config model checks."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: str

    @property
    def settings(self) -> dict[str, Any]:
        """The plugin's own settings."""
        return dict(self.model_extra or {})


class ConditionerEntry(PluginEntry):
    """A conditioner, with the probability that training drops it."""

    drop: Fraction = Field(0.0, description="Probability of the absent condition in training.")


class InjectorEntry(PluginEntry):
    """An injector: which conditions enter, and where."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)
    source: tuple[str, ...] = Field(alias="from", min_length=1, description="Conditioners, by name.")
    at: tuple[str, ...] = Field(min_length=1, description="Regions or site-name patterns of the backbone.")


class DiffusionSection(Section):
    """Forward process, parameterisation and loss."""

    schedule: Literal["linear", "cosine"] = "cosine"
    timesteps: int = Field(1000, ge=1, le=10**6)
    prediction: Prediction = "eps"
    variance: Variance = "fixed_small"
    weighting: Literal["uniform", "min_snr"] = "uniform"
    min_snr_gamma: float = Field(5.0, gt=0)


class EmaSection(Section):
    """Exponential moving average of the weights, min(decay, (1 + n) / (warmup + n)) after n updates."""

    decay: Fraction = 0.9999
    warmup: float = Field(10.0, ge=1.0, description="Larger starts slower; 1 is no warm-up.")


class TrainSection(Section):
    """Optimisation. Exactly one of `steps` and `epochs` sets the length."""

    steps: int | None = Field(None, ge=1, description="Optimiser steps.")
    epochs: int | None = Field(None, ge=1, description="Passes over the training fields, one crop of each.")
    batch: int = Field(5, ge=1, description="Crops per forward pass.")
    accumulate: int = Field(1, ge=1, description="Forward passes per optimiser step.")
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = Field(1e-4, gt=0)
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    warmup: int = Field(0, ge=0, description="Optimiser steps of linear warm-up.")
    decay: Literal["constant", "cosine"] = Field("constant", description="Learning rate after warm-up.")
    clip: float | None = Field(1.0, gt=0, description="Norm to which gradients are clipped; null: never.")
    precision: Precision = Field("bf16", description="Of the forward pass; weights and losses stay fp32.")
    checkpointing: AutoBool = Field(
        "auto", description="Recompute activations in the backward pass; auto: where memory needs it."
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="Of many processes: each has all weights and moments, or `full`: a part of them each.",
    )
    ema: EmaSection = EmaSection()
    seed: int = 0
    workers: AutoCount = Field(
        "auto", description="Loader processes; 0 loads in the main one; auto: by the device and its cores."
    )
    validate_every: int = Field(1000, ge=1, description="Optimiser steps.")
    preview_every: int = Field(1000, ge=1, description="Optimiser steps.")
    save_every: int = Field(1000, ge=1, description="Optimiser steps.")
    keep_last: int = Field(2, ge=1, description="Newest checkpoints that are kept.")
    keep_best: int = Field(
        1, ge=0, description="Checkpoints with the lowest validation losses that are kept beside them."
    )
    loggers: tuple[PluginEntry, ...] = Field(
        (), description="Where figures and previews go, beside metrics.jsonl."
    )

    @model_validator(mode="after")
    def _one_length(self) -> "TrainSection":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        return self


class SampleSection(Section):
    """Defaults of sampling; each but `clip` is a flag of `msdm-kit sample`.

    `mask_operations` is the flag `--mask-op`. Previews of a training start from noise and keep nothing.
    """

    solver: str = "unipc"
    steps: int | None = Field(None, ge=1, description="null: the solver's own number.")
    spacing: Spacing | None = Field(None, description="Which time steps; null: the solver's own.")
    eta: float = Field(0.0, ge=0.0, le=1.0)
    guidance: float | dict[str, float] = Field(1.0, description="One scale, or one per conditioner.")
    clip: bool = Field(
        True, description="Clip the denoised image to [-1, 1] at every step; in latents where that is cheap."
    )
    precision: Precision = "fp32"
    memory: int | None = Field(
        None,
        ge=0,
        description="Most bytes of prepared conditions; null: half of the free memory. Changes no result.",
    )
    mask_operations: tuple[PluginEntry, ...] = Field(
        (), description="What is done to the masks before they are painted, in order."
    )
    start: Literal["noise", "image"] = Field(
        "noise", description="What is painted from: noise, or the real image of the field, with noise on it."
    )
    strength: Fraction = Field(
        0.5,
        description="Of `start: image`, the share of the time steps that is walked: 0 leaves the image as it "
        "is, 1 leaves nothing of it.",
    )
    keep: str = Field(
        "nothing",
        pattern=KEPT,
        description="Pixels of the field's real image that stay: nothing, unchanged (where mask operations "
        "changed no mask), inside:KIND or outside:KIND of a mask kind.",
    )
    keep_margin: int = Field(0, ge=0, description="Pixels around what is painted anew that are painted, too.")
    window: int | None = Field(
        None, ge=1, description="Side of the windows that larger fields are painted by; null: painted whole."
    )
    overlap: int | None = Field(
        None, ge=0, description="Pixels by which windows overlap; null: a quarter of the window."
    )

    @property
    def from_image(self) -> bool:
        """Whether the walk begins at a real image."""
        return self.start == "image"

    @property
    def needs_image(self) -> bool:
        """Whether the real image of a field is needed to paint it."""
        return self.from_image or self.keep != "nothing"

    @property
    def kept_kind(self) -> str:
        """The mask kind that `keep` names, or nothing."""
        return self.keep.partition(":")[2]

    def walked(self, timesteps: int) -> int:
        """How many of the time steps, from the first, are walked: with 0 the image stays as it is."""
        if not self.from_image or self.strength == 0:
            return 0 if self.from_image else timesteps
        return max(1, round(self.strength * timesteps))

    @property
    def walk(self) -> tuple[int, Spacing]:
        """Number of steps and spacing, of settings in which `Solver.settle` has filled in both.

        Raises
        ------
        ValueError
            One of them is None.
        """
        if self.steps is None or self.spacing is None:
            raise ValueError(f"steps {self.steps} and spacing {self.spacing}: settle them first")
        return self.steps, self.spacing


class Recipe(Section):
    """A whole system: conditions, injection, backbone, diffusion, training and sampling."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    summary: str = ""
    reference: str = ""
    data: DataSection = DataSection()
    conditioners: dict[str, ConditionerEntry] = Field(default_factory=dict)
    injectors: tuple[InjectorEntry, ...] = ()
    autoencoder: PluginEntry | None = Field(None, description="null: diffusion is in pixels.")
    backbone: PluginEntry
    diffusion: DiffusionSection = DiffusionSection()
    train: TrainSection
    sample: SampleSection = SampleSection()

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        known = set(self.conditioners)
        used: list[str] = []
        for i, entry in enumerate(self.injectors):
            for name in entry.source:
                if name not in known:
                    raise ValueError(
                        f"injectors.{i}.from: no conditioner {name!r}; legal: {', '.join(sorted(known))}"
                    )
                used.append(name)
        unused = known - set(used)
        if unused:
            raise ValueError(f"conditioners.{min(unused)}: no injector takes it; name it in a `from`")
        if (self.sample.steps or 0) > self.diffusion.timesteps:
            raise ValueError(
                f"sample.steps: {self.sample.steps} steps of a schedule of {self.diffusion.timesteps} "
                f"(diffusion.timesteps); take at most as many"
            )
        if self.sample.kept_kind and self.sample.kept_kind not in self.data.masks:
            raise ValueError(
                f"sample.keep: no mask kind {self.sample.kept_kind!r} in data.masks; "
                f"{did_you_mean(self.sample.kept_kind, self.data.masks)}"
            )
        scales = self.sample.guidance
        if not isinstance(scales, dict):
            scales = dict.fromkeys(self.conditioners, scales)
        for name, scale in scales.items():
            if name not in known:
                raise ValueError(f"sample.guidance.{name}: no such conditioner; {did_you_mean(name, known)}")
            if scale != 1 and self.conditioners[name].drop == 0:
                raise ValueError(
                    f"sample.guidance: {scale:g} on {name!r}, which training never drops; set "
                    f"conditioners.{name}.drop above 0, such as 0.1, or guidance 1"
                )
        return self
