"""Small things to test the engine with: conditions that are given, a U-Net of a few channels, a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from msdm_kit.backbones.unet import UNet, UNetConfig
from msdm_kit.core.conditioning import Conditioner, Observation, PluginConfig, Signal, Spec
from msdm_kit.core.denoiser import Denoiser, Injection
from msdm_kit.core.images import save_image, save_labels
from msdm_kit.core.injection import match_sites
from msdm_kit.core.loader import Batch
from msdm_kit.core.manifest import write_manifest
from msdm_kit.core.recipe import DiffusionSection
from msdm_kit.core.sample import Sample
from msdm_kit.plugins.injectors.concat import Concat, ConcatConfig
from msdm_kit.plugins.injectors.cross_attention import CrossAttentionConfig, CrossAttentionInjector
from msdm_kit.plugins.injectors.film import Film, FilmConfig
from msdm_kit.plugins.injectors.spade import Spade, SpadeConfig

SIDE = 16
ASSAYS = ("purple", "brown stain")
INJECTORS = {
    "spade": (Spade, SpadeConfig(hidden=8), "map", ("middle", "decoder")),
    "cross": (CrossAttentionInjector, CrossAttentionConfig(heads=2), "tokens", ("bottleneck",)),
    "film": (Film, FilmConfig(), "vector", ("embedding",)),
    "concat": (Concat, ConcatConfig(), "map", ("input",)),
}

SETTINGS: dict[str, dict[str, Any]] = {
    "class_label": {"column": "assay"},
    "cross_attention": {"heads": 2},
    "unet": {
        "channels": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention_strides": [2],
        "head_channels": 8,
        "groups": 4,
    },
}
"""What a plugin cannot do without, and what makes it small, by its name."""


def config(cls: Any, name: str) -> Any:
    """The settings of a registered plugin, at toy size."""
    return cls.Config.model_validate(SETTINGS.get(name, {}))


class Given(Conditioner):
    """A condition whose observation is the signal itself, times a weight; absent it is learned."""

    def __init__(self, kind: Any, width: int) -> None:
        super().__init__(PluginConfig(), {})
        self.spec = Spec(kind, width)
        self.weight = nn.Parameter(torch.ones(()))
        self.absent = nn.Parameter(torch.linspace(-2, -1, width))

    def observe(self, sample: Sample) -> Observation:
        return {"data": torch.full((self.spec.width,), float(len(sample.id)))}

    def encode(self, batch: Observation) -> Signal:
        return Signal(batch["data"] * self.weight, batch.get("mask"))

    def null(self, like: Signal) -> Signal:
        absent = self.absent.to(like.data.dtype)
        if self.spec.kind == "map":
            return Signal(absent[:, None, None].expand_as(like.data))
        if like.mask is None:
            return Signal(absent.expand_as(like.data))
        first = torch.arange(like.data.shape[1]) == 0
        return Signal((first[:, None] * absent).expand_as(like.data), first.expand(like.data.shape[:2]))


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Move every weight off its start: what starts at zero would hide what it is multiplied with."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))


def toy_unet(out_channels: int = 3, in_channels: int = 3, **settings: Any) -> UNet:
    """A U-Net of two levels and 8 channels with attention at stride 2."""
    config = {
        "channels": 8,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention_strides": (2,),
        "head_channels": 8,
        "groups": 4,
    }
    return UNet(UNetConfig(**{**config, **settings}), in_channels, out_channels)


def toy_denoiser(
    *names: str, diffusion: DiffusionSection | None = None, unet: Mapping[str, Any] | None = None
) -> Denoiser:
    """A denoiser with these of `INJECTORS`, each fed by a given condition of its name; weights are random."""
    diffusion = diffusion or DiffusionSection()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = toy_unet(6 if diffusion.variance == "learned_range" else 3, **(unet or {}))
        conditioners, injections = {}, []
        for name in names:
            cls, config, kind, at = INJECTORS[name]
            conditioners[name] = Given(kind, 4)
            sites = match_sites(at, backbone.sites, cls)
            spec = conditioners[name].spec
            injections.append(Injection([name], spec, {s.name: cls(config, spec, s) for s in sites}))
        denoiser = Denoiser(backbone, conditioners, injections, diffusion)
    randomise(denoiser)
    return denoiser.eval()


def observations(denoiser: Denoiser, batch: int, seed: int = 1) -> dict[str, Observation]:
    """What the given conditions of a toy denoiser see, by name; tokens are 3, the last row has 2."""
    g = torch.Generator().manual_seed(seed)
    seen = {}
    for name in denoiser.names:
        spec = denoiser.conditioner(name).spec
        shape = {"map": (spec.width, SIDE, SIDE), "tokens": (3, spec.width), "vector": (spec.width,)}
        seen[name] = {"data": torch.randn(batch, *shape[spec.kind], generator=g)}
        if spec.kind == "tokens":
            seen[name]["mask"] = torch.ones(batch, 3, dtype=torch.bool)
            seen[name]["mask"][-1, 2] = False
    return seen


def toy_batch(denoiser: Denoiser, batch: int, seed: int = 1) -> Batch:
    """Training crops of noise."""
    g = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 3, SIDE, SIDE, generator=g) * 2 - 1
    return Batch(image, observations(denoiser, batch, seed), [f"f{i}" for i in range(batch)])


def take(batch: Batch, rows: slice) -> Batch:
    """Some crops of a batch."""
    seen = {n: {k: v[rows] for k, v in o.items()} for n, o in batch.observations.items()}
    return Batch(batch.image[rows], seen, batch.ids[rows])


def field(i: int, side: int = 40) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """An image in [-1, 1] of two cells with their nuclei, and the masks."""
    rng = np.random.default_rng(i)
    y, x = np.mgrid[:side, :side]
    cells, nuclei = np.zeros((side, side), np.int32), np.zeros((side, side), np.int32)
    for k in (1, 2):
        centre = np.array([side / 2, side * k / 3]) + rng.uniform(-2, 2, 2)
        distance = np.hypot(y - centre[0], x - centre[1])
        cells[distance < side / 7] = k
        nuclei[distance < side / 12] = k
    image = np.stack([0.8 - 0.4 * (cells > 0), 0.7 - 0.8 * (nuclei > 0), 0.8 - 0.1 * (cells > 0)])
    return np.clip(image + 0.05 * rng.standard_normal(image.shape), -1, 1).astype(np.float32), {
        "cell": cells,
        "nucleus": nuclei,
    }


def toy_sample(i: int = 0, side: int = SIDE) -> Sample:
    """A field of `toy_folder`, at another size."""
    image, masks = field(i, side)
    words = {"id": f"f{i:02d}", "assay": ASSAYS[i % 2], "indication": f"organ {i % 3}"}
    return Sample(words["id"], masks, image, words)


def toy_folder(root: Path, ids: Sequence[str], splits: Sequence[str] | None = None) -> Path:
    """A data set of fields of 40 x 40 pixels in the documented layout."""
    rows = []
    for i, id in enumerate(ids):
        image, masks = field(i)
        save_image(root / "images" / f"{id}.png", image)
        save_labels(root / "cells" / f"{id}.png", masks["cell"])
        save_labels(root / "nuclei" / f"{id}.png", masks["nucleus"])
        rows.append({"id": id, "assay": ASSAYS[i % 2], "indication": f"organ {i % 3}"})
        if splits is not None:
            rows[-1]["split"] = splits[i]
    write_manifest(root / "metadata.csv", rows)
    return root


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two states are equal, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
