"""Painted fields whose stains, nuclei and textures are known, for the tests of fidelity."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from msdm_kit.core.sample import Sample
from msdm_kit.plugins.embedders.cache import EmbeddingCache
from msdm_kit.plugins.embedders.descriptors import Descriptors
from msdm_kit.plugins.fidelity.fidelity import Fidelity, fidelity

EMBEDDER = Descriptors(Descriptors.Config(), torch.device("cpu"))
PER = 8
"""Real fields of a stain."""
CACHE = EmbeddingCache(None, EMBEDDER.fingerprint)
"""In memory: most tests look at the same fields."""
STAINS = {
    "pink": ((0.7, 0.3, 0.6), (-0.1, -0.6, 0.1)),
    "white": ((0.9, 0.85, 0.9), (-0.3, -0.5, 0.3)),
    "brown": ((0.8, 0.7, 0.5), (0.0, -0.4, -0.6)),
}
"""Colours of ground and nuclei."""


def levels(image: np.ndarray) -> np.ndarray:
    return (np.rint((image.clip(-1, 1) + 1) * 127.5) / 127.5 - 1).astype(np.float32)


def paint(seed: int, stain: str = "pink", masks_of: int | None = None, size=(80, 96)) -> Sample:
    """A field: round nuclei with soft outlines, and texture of its own. `masks_of` gives another's nuclei."""
    rng = np.random.default_rng(seed if masks_of is None else masks_of)
    labels, grid = np.zeros(size, np.int32), np.mgrid[: size[0], : size[1]]
    for i in range(8):
        centre, radius = rng.uniform(8, 72, 2), rng.uniform(4, 7)
        labels[((grid - centre[:, None, None]) ** 2).sum(0) < radius**2] = i + 1
    rng = np.random.default_rng(10_000 + seed)
    inside = gaussian_filter((labels > 0).astype(float), 1)
    texture = gaussian_filter(rng.normal(size=size), 1.2)
    ground, nuclei = (np.array(c)[:, None, None] + rng.normal(0, 0.03, (3, 1, 1)) for c in STAINS[stain])
    image = ground * (1 - inside) + nuclei * inside + 0.12 * texture / texture.std()
    return Sample(
        f"{stain}{seed}", {"nucleus": labels}, levels(image), {"assay": stain, "site": f"s{seed % 2}"}
    )


def renamed(sample: Sample, image: np.ndarray | None = None, **metadata: str) -> Sample:
    return replace(
        sample,
        id=f"syn-{sample.id}",
        image=sample.image if image is None else levels(image),
        metadata={**sample.metadata, **metadata},
    )


@cache
def real() -> tuple[Sample, ...]:
    return tuple(paint(100 * i + seed, stain) for i, stain in enumerate(STAINS) for seed in range(PER))


@cache
def honest() -> tuple[Sample, ...]:
    """New texture and colours on the masks of real fields, as a good generator paints."""
    found = []
    for sample in real():
        seed = int(sample.id.removeprefix(sample.metadata["assay"]))
        painted = paint(5000 + seed, sample.metadata["assay"], masks_of=seed)
        found.append(replace(
            painted, id=f"syn-{sample.id}",
            metadata={**painted.metadata, "source_morphology": sample.id, "source_appearance": sample.id},
        ))  # fmt: skip
    return tuple(found)


def measured(synthetic, **settings) -> Fidelity:
    settings = {"group": ("assay",), "repeats": 4, "permutations": 99, "cache": CACHE, **settings}
    return fidelity(list(real()), list(synthetic), EMBEDDER, **settings)


@cache
def of_honest() -> Fidelity:
    return measured(honest())


@cache
def of_itself() -> Fidelity:
    return measured(real())
