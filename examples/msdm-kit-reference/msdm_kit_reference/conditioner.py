"""A reference image as a condition."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from msdm_kit.core.conditioning import Conditioner, Observation, PluginConfig, Signal, Spec
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.sample import Sample


class ReferenceConfig(PluginConfig):
    """Settings of `Reference`."""

    model: str = Field("vit_tiny_patch16_224", min_length=1, description="A network of timm, by its name.")
    weights: Path | None = Field(
        None, description="Its weights, safetensors as timm publishes them; null: random ones."
    )
    dim: int = Field(128, ge=1, description="Width of the tokens.")


class Reference(Conditioner):
    """What a network of timm sees in the appearance's image: its tokens, or the pixels of its last map.

    The network is frozen; a linear map of its features is learned. The weights are read when a run begins and
    are saved with it.
    """

    Config = ReferenceConfig
    reads = frozenset({"appearance"})

    def __init__(self, config: ReferenceConfig, facts: Mapping[str, Any]) -> None:
        super().__init__(config, facts)
        import timm

        if not timm.is_model(config.model):
            raise MsdmError(
                f"timm has no model {config.model!r}; timm.list_models() prints those that it has"
            )
        self.network = timm.create_model(config.model, pretrained=False, num_classes=0)
        self.network.requires_grad_(False)
        found = self.network.pretrained_cfg
        self.side = int(found["input_size"][-1])
        self.mean, self.std = ([float(v) for v in found[key]] for key in ("mean", "std"))
        self.spec = Spec("tokens", config.dim)
        self.linear = nn.Linear(self.network.num_features, config.dim)
        self.absent = nn.Parameter(torch.randn(config.dim))
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.network.eval()  # its statistics are not those of this training
        return self

    def initialise(self) -> None:
        """Load the weights that the settings name.

        Raises
        ------
        MsdmError
            The file is not there, is damaged, or of another network.
        """
        if self.config.weights is None:
            return
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            lacks, _ = self.network.load_state_dict(load_file(self.config.weights), strict=False)
        except (OSError, SafetensorError, RuntimeError) as error:
            lacks = [" ".join(str(error).split())[:120]]
        if lacks:
            raise MsdmError(
                f"{self.config.weights} does not hold the weights of {self.config.model!r} ({lacks[0]}); "
                f"give the model.safetensors of that network"
            )

    def observe(self, sample: Sample) -> Observation:
        """``pixels``: (3, S, S) float32 in [-1, 1], the image at the network's size."""
        image = sample.appearance.image
        if image is None:
            raise MsdmError(f"sample {sample.id!r} has no reference image; take its appearance from a field")
        pixels = torch.from_numpy(np.ascontiguousarray(image))[None]
        return {"pixels": F.interpolate(pixels, (self.side, self.side), mode="bilinear", antialias=True)[0]}

    def encode(self, batch: Observation) -> Signal:
        pixels = batch["pixels"]
        mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (self.mean, self.std))
        with torch.no_grad():
            features = self.network.forward_features((pixels * 0.5 + 0.5 - mean) / std)
        if features.ndim == 4:
            width = self.network.num_features
            features = features.flatten(2).mT if features.shape[1] == width else features.flatten(1, 2)
        return Signal(self.linear(features))

    def null(self, like: Signal) -> Signal:
        return Signal(self.absent.to(like.data).expand_as(like.data))
