"""A trained model, ready to paint."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from ..core.augment import pad_to_multiple
from ..core.checkpoint import cast, file_hash, load_tensors, save_tensors
from ..core.denoiser import Denoiser, to_device
from ..core.errors import MsdmError, did_you_mean
from ..core.recipe import Precision, Recipe, SampleSection
from ..core.sample import Image, Sample
from ..core.sampling import Sampler
from .build import build_conditioners, build_denoiser
from .device import free_memory, pick_device
from .recipe_schema import one_line
from .run import Run, run_facts, saved_recipe
from .solver import load_solver

MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Synthetic:
    """A painted field and what it was painted from.

    Attributes
    ----------
    target : Sample
        Its masks are pixel for pixel those of the image; its `sources` name the field of each facet.
    image : ndarray (3, H, W) float32 in [-1, 1]
    seed : int
    settings : SampleSection
    """

    target: Sample
    image: Image
    seed: int
    settings: SampleSection

    @property
    def id(self) -> str:
        return self.target.id


class Pipeline:
    """A recipe with trained weights.

    Attributes
    ----------
    recipe : Recipe
    denoiser : Denoiser
        In evaluation mode, on its device.
    weights_hash : str
        SHA-256 of the weights' file.
    step : int
        Optimiser steps that it was trained for.
    """

    def __init__(self, recipe: Recipe, denoiser: Denoiser, *, weights_hash: str, step: int) -> None:
        self.recipe = recipe
        self.denoiser = denoiser.eval()
        self.weights_hash = weights_hash
        self.step = step
        self._sampler: Sampler | None = None

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @classmethod
    def load(cls, run: str | Path, *, device: str | None = None) -> "Pipeline":
        """Load a run.

        Parameters
        ----------
        run : str or Path
            A run's folder, a weights file, or a model that comes with the package: ``demo``.
        device : str or None
            None takes a GPU where there is one.

        Raises
        ------
        MsdmError
            There is no such run, or its weights do not fit its recipe.
        """
        path = find_weights(run)
        tensors, facts = load_tensors(path)
        recipe = saved_recipe(facts, path)
        denoiser = build_denoiser(recipe, build_conditioners(recipe, facts=facts["conditioners"]))
        try:
            denoiser.load_state_dict(cast(tensors, torch.float32))
        except RuntimeError as error:
            first = shorten((str(error).splitlines()[1:2] or [str(error)])[0], 120, placeholder=" ...")
            raise MsdmError(
                f"{path}: the weights do not fit their recipe: {first}; give the weights.safetensors of a run"
            ) from None
        denoiser = denoiser.to(pick_device(device)).to(memory_format=torch.channels_last)
        return cls(recipe, denoiser, weights_hash=file_hash(path), step=int(facts["step"]))

    def save(self, path: str | Path, *, precision: Precision = "fp32") -> None:
        """Write the weights as one file that `load` reads; ``bf16`` halves it.

        Raises
        ------
        MsdmError
            The precision is unknown, or the file cannot be written.
        """
        dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
        if precision not in dtypes:
            raise MsdmError(f"no precision {precision!r}; {did_you_mean(precision, dtypes)}")
        tensors = cast(self.denoiser.state_dict(), dtypes[precision])
        save_tensors(path, tensors, run_facts(self.recipe, self.denoiser, self.step))

    def settings(self, **changes: Any) -> SampleSection:
        """The recipe's sampling settings with some changed, steps and spacing filled in.

        None changes nothing. The recipe's steps and spacing belong to its solver: another one takes its own
        where they are not given here.

        Raises
        ------
        MsdmError
            A setting is unknown or illegal, or guidance is asked of a condition that was never dropped.
        """
        given = {k: v for k, v in changes.items() if v is not None}
        own = self.recipe.sample.model_dump()
        if given.get("solver", own["solver"]) != own["solver"]:
            own |= {"steps": None, "spacing": None}
        try:
            settings = SampleSection.model_validate({**own, **given})
        except ValidationError as error:
            raise MsdmError(f"sample: {one_line(error, SampleSection)}") from None
        settings = load_solver(settings.solver).settle(settings, len(self.denoiser.schedule))
        scales = settings.guidance
        names = self.denoiser.names
        if not isinstance(scales, dict):
            scales = dict.fromkeys(names, scales)
        for name, scale in scales.items():
            if name not in names:
                raise MsdmError(f"guidance names no condition {name!r}: {did_you_mean(name, names)}")
            if scale != 1 and self.recipe.conditioners[name].drop == 0:
                raise MsdmError(
                    f"guidance {scale:g} on {name!r}, which training never dropped; use guidance 1, or train "
                    f"with --set conditioners.{name}.drop=0.1"
                )
        return settings

    def check(self, field: Sample) -> None:
        """Check that a field has all that the conditions read.

        Raises
        ------
        MsdmError
            It lacks something.
        """
        for name in self.denoiser.names:
            self.denoiser.conditioner(name).observe(field)

    def at_once(self, batch: int) -> int:
        """Fields that are painted at once where `batch` may be: one on a CPU."""
        return 1 if self.device.type == "cpu" else batch

    def sample(
        self,
        fields: Sequence[Sample] | Sample,
        *,
        seed: int = 0,
        batch: int = 4,
        on_step: Callable[[int], None] | None = None,
        **settings: Any,
    ) -> Iterator[Synthetic]:
        """Paint fields.

        Parameters
        ----------
        fields : sequence of Sample, or one Sample
            With masks, appearance and metadata as the recipe's conditions read them; ids are unique. Any
            size: fields are padded to what the backbone needs and cut back.
        seed : int
        batch : int
            Fields at once, of equal size, on a GPU. A CPU takes one at a time, so that results do not depend
            on `batch`, bit for bit (at 256 pixels it is also faster); on a GPU they do not but for rounding.
        on_step : callable (fields) or None
            Called after each solver step with the number of fields in the batch.
        **settings
            Of `SampleSection`: steps, solver, spacing, eta, guidance, clip, precision.

        Yields
        ------
        Synthetic
            In the order of `fields`.

        Raises
        ------
        MsdmError
            A field lacks what a condition reads, an id comes twice, or a setting is illegal.
        """
        fields = [fields] if isinstance(fields, Sample) else fields
        chosen = self.settings(**settings)
        batch = self.at_once(batch)
        ids = [f.id for f in fields]
        twice = {i for i in ids if ids.count(i) > 1}
        if twice:
            raise MsdmError(f"field id {min(twice)!r} comes twice; noise is drawn from it: make ids unique")
        sampler = self._sampler_of(chosen)
        for _, group in groupby(fields, key=lambda field: field.size):
            same = list(group)
            for start in range(0, len(same), batch):
                yield from self._batch(same[start : start + batch], seed, sampler, on_step)

    def _sampler_of(self, settings: SampleSection) -> Sampler:
        """The sampler of these settings; the last one is kept, with what it prepared for every batch."""
        if self._sampler is None or self._sampler.settings != settings:
            self._sampler = None  # its memory is free before the next one's is asked for
            budget = settings.memory if settings.memory is not None else free_memory(self.device) // 2
            self._sampler = Sampler(self.denoiser, settings, load_solver(settings.solver), budget=budget)
        return self._sampler

    def _batch(
        self,
        fields: Sequence[Sample],
        seed: int,
        sampler: Sampler,
        on_step: Callable[[int], None] | None,
    ) -> Iterator[Synthetic]:
        denoiser = self.denoiser
        padded = [pad_to_multiple(f, denoiser.backbone.multiple) for f in fields]
        with torch.inference_mode():
            signals = denoiser.encode(to_device(denoiser.observe(padded), self.device))
        images = sampler.draw(
            signals,
            ids=[f.id for f in fields],
            size=padded[0].size,
            seed=seed,
            on_step=None if on_step is None else lambda: on_step(len(fields)),
        )
        height, width = fields[0].size
        for field, image in zip(fields, images.float().cpu().numpy(), strict=True):
            cut: Image = np.ascontiguousarray(image[:, :height, :width])
            yield Synthetic(field, cut, seed, sampler.settings)


def find_weights(run: str | Path) -> Path:
    """The weights file of a run's folder, a file itself, or a model of the package.

    Raises
    ------
    MsdmError
        There is none.
    """
    path = Path(run)
    if path.is_file():
        return path
    weights = Run(path).weights
    if weights.exists():
        return weights
    models = {p.parent.name: p for p in MODELS.glob("*/weights.safetensors")}
    if str(run) in models:
        return models[str(run)]
    if path.is_dir():
        raise MsdmError(f"{path} holds no {weights.name}; give the folder of a run that has saved once")
    raise MsdmError(f"no run {str(run)!r}, and no model of that name: {did_you_mean(str(run), models)}")
