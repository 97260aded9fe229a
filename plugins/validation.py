"""What a training run looks at beside its loss: validation loss by noise level, and previews."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from ..core.augment import centre_crop
from ..core.dataset import FieldDataset
from ..core.denoiser import Denoiser, to_device
from ..core.loader import Batch, TrainingStream
from ..core.optimise import Optimiser
from ..core.pictures import SheetRow, save_sheet
from ..core.recipe import Recipe, SampleSection
from ..core.sample import Sample
from ..core.sampling import Sampler
from ..core.seeds import seed_for
from ..core.solvers import Solver
from .build import build_conditioners, build_denoiser, collect_facts

LEVELS = (0.125, 0.375, 0.625, 0.875)
"""Noise levels of the validation loss, as fractions of the schedule."""
MAX_CROPS = 16
PREVIEW_FIELDS = 4
PREVIEW_STEPS = 20


class Validation:
    """Fixed crops, fixed noise, fixed time steps: figures of different steps can be compared.

    Parameters
    ----------
    dataset : FieldDataset
        The validation fields.
    optimiser : Optimiser
        Its averaged weights are validated.
    recipe : Recipe
    solver : Solver
        For the previews.
    """

    def __init__(self, dataset: FieldDataset, optimiser: Optimiser, recipe: Recipe, solver: Solver) -> None:
        self.dataset = dataset
        self.optimiser = optimiser
        self.recipe = recipe
        self.solver = solver
        denoiser = optimiser.denoiser
        still = recipe.data.model_copy(update={"flips": False, "turns": False})
        stream = TrainingStream(dataset, denoiser.by_name, still, seed_for("validation"))
        crops = [stream[n] for n in range(min(len(dataset), MAX_CROPS))]
        size = recipe.train.batch
        self.batches: list[Batch] = [stream.collate(crops[i : i + size]) for i in range(0, len(crops), size)]

    def losses(self, stopped: Callable[[], bool] = lambda: False) -> list[float] | None:
        """Mean loss at each of `LEVELS`, by the averaged weights; None where `stopped` is true on the way."""
        optimiser, denoiser = self.optimiser, self.optimiser.denoiser
        sums = torch.zeros(len(LEVELS))
        denoiser.eval()
        with optimiser.ema.applied(), torch.no_grad():
            for k, level in enumerate(LEVELS):
                for i, batch in enumerate(self.batches):
                    if stopped():
                        return None
                    g = torch.Generator().manual_seed(seed_for("validation", k, i))
                    index = torch.full((len(batch.ids),), int(level * len(denoiser.schedule)))
                    noise = torch.randn(denoiser.autoencoder.shape(batch.image.shape), generator=g)
                    sums[k] += optimiser.loss_at(batch, index, noise, {}).sum().cpu()
        return (sums / sum(len(b.ids) for b in self.batches)).tolist()

    def network(self, weights: Mapping[str, Tensor]) -> Denoiser:
        """A network of its own with these weights, on the optimiser's device, to paint previews with."""
        recipe, facts = self.recipe, collect_facts(self.optimiser.denoiser.by_name)
        denoiser = build_denoiser(recipe, build_conditioners(recipe, facts=facts))
        denoiser.load_state_dict(dict(weights))
        return denoiser.to(self.optimiser.device).to(memory_format=torch.channels_last)

    def preview(
        self,
        path: Path,
        title: str,
        stopped: Callable[[], bool] = lambda: False,
        *,
        averaged: Denoiser | None = None,
    ) -> bool:
        """A contact sheet of a few validation fields, the same at every call but for the weights.

        Parameters
        ----------
        path : Path
        title : str
        stopped : callable
        averaged : Denoiser or None
            From `network`, where the optimiser's weights are split: one process paints.

        Returns
        -------
        bool
            False, and nothing is written, where `stopped` was true on the way.
        """
        denoiser = averaged or self.optimiser.denoiser
        denoiser.eval()
        fields = [self._window(self.dataset[i]) for i in range(min(PREVIEW_FIELDS, len(self.dataset)))]
        settings = preview_settings(self.recipe, self.solver, len(denoiser.schedule))
        rows = []
        with nullcontext() if averaged is not None else self.optimiser.ema.applied():
            sampler = Sampler(denoiser, settings, self.solver)
            for field in fields:
                if stopped():
                    return False
                with torch.no_grad():
                    signals = denoiser.encode(to_device(denoiser.observe([field]), self.optimiser.device))
                image = sampler.draw(signals, ids=[field.id], size=field.size, seed=self.recipe.train.seed)
                rows.append(SheetRow(field.id, field.image, field.masks, image[0].cpu().numpy()))
        save_sheet(path, rows, title)
        return True

    def _window(self, field: Sample) -> Sample:
        """The middle of a field: twice the training crop, or as much as there is."""
        side = _side(self.recipe, field.size, self.optimiser.denoiser.multiple)
        return centre_crop(field, side)


def _side(recipe: Recipe, size: tuple[int, int], multiple: int) -> int:
    side = min(*size, 2 * recipe.data.crop)
    return side - side % multiple


def preview_side(recipe: Recipe, dataset: FieldDataset | None, multiple: int) -> int:
    """Side of the largest field of a preview in pixels; 0 where there are no validation fields.

    `multiple` is what the network's images are multiples of.
    """
    sizes = [] if dataset is None else dataset.sizes[:PREVIEW_FIELDS]
    return max((_side(recipe, size, multiple) for size in sizes), default=0)


def preview_settings(recipe: Recipe, solver: Solver, timesteps: int) -> SampleSection:
    """How previews are painted: as the recipe samples, from noise, in few steps, as training computes."""
    alone = recipe.sample.model_copy(update={"start": "noise", "keep": "nothing"})
    settings = solver.settle(alone, timesteps)
    steps, _ = settings.walk
    return settings.model_copy(
        update={"steps": min(steps, PREVIEW_STEPS), "precision": recipe.train.precision}
    )


def by_level(losses: Sequence[float]) -> dict[str, float]:
    """Validation losses with their noise level as the key."""
    return {f"t={level:g}": loss for level, loss in zip(LEVELS, losses, strict=True)}
