"""A trained model, ready to paint."""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from ..core import guard
from ..core.augment import pad_to_multiple
from ..core.checkpoint import cast, save_tensors
from ..core.denoiser import Denoiser, to_device
from ..core.errors import MsdmError, did_you_mean, out_of_memory
from ..core.files import file_hash
from ..core.mapped import MappedTensor
from ..core.recipe import Precision, Recipe, SampleSection
from ..core.sample import Image, Sample
from ..core.sampling import Sampler
from ..core.shortage import Shortage
from .device import free_memory, pick_device
from .field_windows import draw_by_windows, image_by_windows, settle_windows
from .kept_pixels import known_images
from .painting_estimate import what_fits
from .recipe_schema import one_line
from .run import run_facts
from .solver import load_solver
from .weights import find_weights, load_denoiser


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
        self._shortage = Shortage("fields")

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
        recipe, denoiser, step = load_denoiser(path)
        denoiser = denoiser.to(pick_device(device)).to(memory_format=torch.channels_last)
        return cls(recipe, denoiser, weights_hash=file_hash(path), step=step)

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
        if "strength" in given and "start" not in given and not settings.from_image:
            raise MsdmError("strength is of a walk from an image; give --start image too, or leave it out")
        if settings.kept_kind and settings.kept_kind not in self.recipe.data.masks:
            raise MsdmError(
                f"keep {settings.keep}: no mask kind {settings.kept_kind!r} in data.masks of the recipe; "
                f"{did_you_mean(settings.kept_kind, self.recipe.data.masks)}"
            )
        settings = settle_windows(settings, self.denoiser.multiple, self.denoiser.autoencoder.stride)
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
            guard.observe(name, self.denoiser.conditioner(name), field)

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
            size: fields are padded to what the backbone needs and cut back. Their images are read where
            painting starts from one, or keeps pixels of one: those of a field's `keep` where it has one.
        seed : int
        batch : int
            Fields at once, of equal size, on a GPU. A CPU takes one at a time, so that results do not depend
            on `batch`, bit for bit (at 256 pixels it is also faster); on a GPU they do not but for rounding.
        on_step : callable (fields) or None
            Called after each solver step with the number of fields in the batch; where memory ran out, once
            with the negative of what will be done again.
        **settings
            Of `SampleSection`: steps, solver, spacing, eta, guidance, clip, precision, start, strength,
            keep, keep_margin, window, overlap.

        Yields
        ------
        Synthetic
            In the order of `fields`.

        Raises
        ------
        MsdmError
            A field lacks what a condition reads, an id comes twice, a setting is illegal, or memory runs out
            even for one field at a time with nothing kept.
        """
        fields = [fields] if isinstance(fields, Sample) else fields
        chosen = self.settings(**settings)
        batch = self.at_once(batch)
        twice = [id for id, times in Counter(f.id for f in fields).items() if times > 1]
        if twice:
            raise MsdmError(f"field id {min(twice)!r} comes twice; noise is drawn from it: make ids unique")
        for _, group in groupby(fields, key=lambda field: field.size):
            same = list(group)
            if chosen.window is not None and max(same[0].size) > chosen.window:
                for field in same:
                    sampler = self._sampler_of(chosen)
                    with self._advised(chosen, field.size):
                        image = image_by_windows(sampler, field, seed, batch, on_step)
                    yield Synthetic(field, image, seed, sampler.settings)
                continue
            while same:
                part = same[: self._shortage.at_once(batch)]
                with self._advised(chosen, part[0].size):
                    painted = self._painted(part, seed, chosen, on_step)
                if painted is not None:
                    yield from painted
                    del same[: len(part)]

    def draw_field(
        self,
        field: Sample,
        *,
        seed: int = 0,
        batch: int = 4,
        folder: Path | None = None,
        on_windows: Callable[[int], None] | None = None,
        **settings: Any,
    ) -> MappedTensor:
        """Paint a field of any size by windows, in memory that does not depend on its size.

        Parameters
        ----------
        field : Sample
            Its masks may be memory-mapped.
        seed : int
        batch : int
            Windows at once on a GPU; a CPU takes one.
        folder, on_windows
            As `draw_windows` takes them.
        **settings
            As `sample` takes them, with a window.

        Returns
        -------
        MappedTensor (1, 3, H, W) in [-1, 1]
            H and W are those of the field, padded to what the backbone needs.

        Raises
        ------
        MsdmError
            As `sample`, there is no window, or the disc is too small.
        """
        sampler = self._sampler_of(self.settings(**settings))
        with self._advised(sampler.settings, field.size):
            return draw_by_windows(sampler, field, seed, self.at_once(batch), folder, on_windows)

    def _sampler_of(self, settings: SampleSection) -> Sampler:
        """The sampler of these settings; the last one is kept, with what it prepared for every batch."""
        if self._sampler is None or self._sampler.settings != settings:
            self._sampler = None  # its memory is free before the next one's is asked for
            budget = settings.memory if settings.memory is not None else free_memory(self.device) // 2
            budget = 0 if self._shortage.frugal else budget
            self._sampler = Sampler(self.denoiser, settings, load_solver(settings.solver), budget=budget)
        return self._sampler

    @contextmanager
    def _advised(self, settings: SampleSection, size: tuple[int, int]) -> Iterator[None]:
        """Where memory runs out in spite of all, say which settings would fit."""
        try:
            yield
            return
        except Exception as error:
            if not out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # what is computed below needs some, too
        self._sampler = None
        advice = what_fits(self.recipe, self.denoiser, settings, size=size, failed=True)
        height, width = size
        raise MsdmError(f"out of memory on {self.device} for a field of {height} x {width}: {advice}")

    def _painted(
        self,
        fields: Sequence[Sample],
        seed: int,
        settings: SampleSection,
        on_step: Callable[[int], None] | None,
    ) -> list[Synthetic] | None:
        """Fields of one size; None where memory ran out, and less is taken from now on."""
        told = 0

        def count(fields: int) -> None:
            nonlocal told
            told += fields
            if on_step is not None:
                on_step(fields)

        try:
            return list(self._batch(fields, seed, self._sampler_of(settings), count))
        except Exception as error:
            keeps = self._sampler is not None and self._sampler.budget != 0
            if not out_of_memory(error) or not self._shortage.retreat(len(fields), keeps=keeps):
                raise
        if self._sampler is not None:
            self._sampler.forget()
            self._sampler = None
        count(-told)
        return None

    def _batch(
        self,
        fields: Sequence[Sample],
        seed: int,
        sampler: Sampler,
        on_step: Callable[[int], None] | None,
    ) -> Iterator[Synthetic]:
        denoiser = self.denoiser
        padded = [pad_to_multiple(f, denoiser.multiple) for f in fields]
        known = known_images(fields, sampler.settings, denoiser.multiple)
        with torch.inference_mode():
            signals = denoiser.encode(to_device(denoiser.observe(padded), self.device), len(fields))
        images = sampler.draw(
            signals,
            ids=[f.id for f in fields],
            size=padded[0].size,
            seed=seed,
            known=None if known is None else known.to(self.device),
            on_step=None if on_step is None else lambda: on_step(len(fields)),
        )
        height, width = fields[0].size
        images = images.float().cpu()
        if not bool(torch.isfinite(images).all()):
            guard.unpaintable(f"fields {', '.join(f.id for f in fields)}", signals, denoiser.by_name)
        for field, image in zip(fields, images.numpy(), strict=True):
            cut: Image = np.ascontiguousarray(image[:, :height, :width])
            yield Synthetic(field, cut, seed, sampler.settings)
