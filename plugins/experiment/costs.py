"""What steps cost, before anything is measured: seconds on one core, or on a GPU."""

from dataclasses import dataclass

from ...core.fields import IMAGES, locate
from ...core.images import read_image
from .protocol import Protocol

CORE = {"train": 1.0e11, "paint": 2.0e11}
"""Operations per second of one core: what `quickstart` reached on an AMD EPYC with AVX-512 bf16."""
GPU = {"train": 1.0e14, "paint": 1.0e14}
"""The same of a GPU: assumed, a tenth of what a data-centre GPU of 2023 reaches at best in bf16."""
UNKNOWN = 5.0e11
"""Operations on a crop in a pass, forward and back, where a plugin's cannot be counted."""
START = 5.0
"""Seconds until a step of a network has begun."""
SEGMENTER = {False: 10.0, True: 1.0}
"""Seconds per megapixel of training fields that a segmenter takes, on a core and on a GPU: a guess."""


@dataclass(frozen=True)
class Costs:
    """Estimated seconds.

    Attributes
    ----------
    train : dict of generator -> float
    paint : dict of generator -> float
        Of one field.
    megapixels : float
        Of one field.
    per_field : float
        Of a segmenter's training, for each field that it is trained on.
    """

    train: dict[str, float]
    paint: dict[str, float]
    megapixels: float
    per_field: float

    def segmenter(self, fields: int) -> float:
        """Of one training on so many fields."""
        return START + self.per_field * fields


def estimate(protocol: Protocol, *, gpu: bool) -> Costs:
    """Count the operations of each generator, on a device that computes nothing, and divide by a usual speed.

    Parameters
    ----------
    protocol : Protocol
    gpu : bool
        Whether it runs on GPUs.
    """
    from ..meta_pass import meta_denoiser, model_flops
    from ..solver import load_solver
    from ..training import total_steps

    plan = protocol.plan
    rows = protocol.rows[plan.splits.train]
    speed = GPU if gpu else CORE
    pixels = field_pixels(protocol)
    train, paint = {}, {}
    for name, recipe in protocol.recipes.items():
        denoiser = meta_denoiser(recipe, rows=rows)
        section = recipe.train
        batch = model_flops(denoiser, recipe) or UNKNOWN * section.batch
        train[name] = START + total_steps(recipe, len(rows)) * section.accumulate * batch / speed["train"]
        solver = load_solver(recipe.sample.solver)
        settings = solver.settle(recipe.sample, recipe.diffusion.timesteps)
        guidance = settings.guidance
        scales = guidance.values() if isinstance(guidance, dict) else [guidance]
        passes = solver.evaluations(settings.walk[0]) * (2 if any(scale != 1 for scale in scales) else 1)
        forward = batch / 3 / section.batch * pixels / recipe.data.crop**2
        paint[name] = passes * forward / speed["paint"]
    return Costs(train, paint, pixels / 1e6, SEGMENTER[gpu] * pixels / 1e6)


def field_pixels(protocol: Protocol) -> int:
    """Pixels of the first training field."""
    image = read_image(locate(protocol.folder / IMAGES, protocol.ids(protocol.plan.splits.train)[0]))
    return int(image.shape[0] * image.shape[1])
