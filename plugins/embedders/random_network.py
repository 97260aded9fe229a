"""A random network: features that mean nothing, to test what uses features."""

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from ...core.conditioning import PluginConfig
from ...core.sample import Image
from ...core.seeds import seed_for
from .base import Embedder


class Random(Embedder):
    """Three convolutions with random weights, and the mean over all places. For tests: it is no metric."""

    class Config(PluginConfig):
        seed: int = Field(default=0, ge=0, description="Of the weights.")
        width: int = Field(default=32, ge=1, le=4096, description="Length of the vectors.")

    is_metric: ClassVar[bool] = False

    def __init__(self, config: Any, device: torch.device) -> None:
        super().__init__(config, device)
        generator = torch.Generator().manual_seed(seed_for("random embedder", config.seed))
        layers: list[nn.Module] = []
        for incoming, outgoing in ((3, 16), (16, 32), (32, config.width)):
            layer = nn.Conv2d(incoming, outgoing, 3, stride=2, padding=1, bias=False)
            with torch.no_grad():
                layer.weight.normal_(0, (2 / (9 * incoming)) ** 0.5, generator=generator)
            layers += [layer, nn.ReLU()]
        self._network = nn.Sequential(*layers).to(device).eval()

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"random {self.config!r} {torch.__version__}".encode()).hexdigest()

    @torch.inference_mode()
    def embed(self, tiles: Sequence[Image]) -> NDArray[np.float32]:
        # one by one: tiles differ in size, and a row depends on its own tile alone to the last bit
        rows = [
            self._network(torch.from_numpy(np.ascontiguousarray(tile)).to(self.device)[None])
            for tile in tiles
        ]
        return np.concatenate([row.mean(dim=(2, 3)).cpu().numpy() for row in rows]).astype(np.float32)
