"""What a training run looks at beside its loss: validation loss by noise level, and previews."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..core.augment import centre_crop
from ..core.dataset import FieldDataset
from ..core.denoiser import to_device
from ..core.loader import Batch, TrainingStream
from ..core.optimise import Optimiser
from ..core.pictures import SheetRow, save_sheet
from ..core.recipe import Recipe
from ..core.sample import Sample
from ..core.sampling import Sampler
from ..core.seeds import seed_for
from ..core.solvers import Solver

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

    def losses(self) -> list[float]:
        """Mean loss at each of `LEVELS`, by the averaged weights."""
        optimiser, denoiser = self.optimiser, self.optimiser.denoiser
        sums = torch.zeros(len(LEVELS))
        denoiser.eval()
        with optimiser.ema.applied(), torch.no_grad():
            for k, level in enumerate(LEVELS):
                for i, batch in enumerate(self.batches):
                    g = torch.Generator().manual_seed(seed_for("validation", k, i))
                    index = torch.full((len(batch.ids),), int(level * len(denoiser.schedule)))
                    noise = torch.randn(batch.image.shape, generator=g)
                    sums[k] += optimiser.loss_at(batch, index, noise, {}).sum().cpu()
        return (sums / sum(len(b.ids) for b in self.batches)).tolist()

    def preview(self, path: Path, title: str) -> None:
        """A contact sheet of a few validation fields, the same at every call but for the weights."""
        denoiser = self.optimiser.denoiser
        denoiser.eval()
        fields = [self._window(self.dataset[i]) for i in range(min(PREVIEW_FIELDS, len(self.dataset)))]
        alone = self.recipe.sample.model_copy(update={"start": "noise", "keep": "nothing"})
        settings = self.solver.settle(alone, len(denoiser.schedule))
        steps, _ = settings.walk
        settings = settings.model_copy(
            update={"steps": min(steps, PREVIEW_STEPS), "precision": self.recipe.train.precision}
        )
        rows = []
        with self.optimiser.ema.applied():
            sampler = Sampler(denoiser, settings, self.solver)
            for field in fields:
                with torch.no_grad():
                    signals = denoiser.encode(to_device(denoiser.observe([field]), self.optimiser.device))
                image = sampler.draw(signals, ids=[field.id], size=field.size, seed=self.recipe.train.seed)
                rows.append(SheetRow(field.id, field.image, field.masks, image[0].cpu().numpy()))
        save_sheet(path, rows, title)

    def _window(self, field: Sample) -> Sample:
        """The middle of a field: twice the training crop, or as much as there is."""
        multiple = self.optimiser.denoiser.backbone.multiple
        side = min(*field.size, 2 * self.recipe.data.crop)
        return centre_crop(field, side - side % multiple)


def by_level(losses: Sequence[float]) -> dict[str, float]:
    """Validation losses with their noise level as the key."""
    return {f"t={level:g}": loss for level, loss in zip(LEVELS, losses, strict=True)}
