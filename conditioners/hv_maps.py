"""Morphology as horizontal and vertical maps of every instance."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field

from ..core.conditioning import Conditioner, Observation, PluginConfig, Signal, Spec
from ..core.sample import Sample
from .hv import HVMode, hv_maps
from .maps import MaskKinds, absent_map


class HVMapsConfig(PluginConfig):
    """Settings of `HVMaps`."""

    masks: MaskKinds = ("cell", "nucleus")
    mode: HVMode = Field("hover", description="The definition; see `msdm_kit.conditioners.hv`.")


class HVMaps(Conditioner):
    """H and V of each mask kind: a map of 2 channels per kind, in the order of `masks`.

    Values lie in [-1, 1], 0 on the background. The maps of the baseline SDM and of MSDM's 16-channel
    guidance map (Winter et al. 2025, arXiv 2510.09121).
    """

    Config = HVMapsConfig
    reads = frozenset({"morphology"})
    reach = 0

    def __init__(self, config: HVMapsConfig, facts: Mapping[str, Any]) -> None:
        super().__init__(config, facts)
        self.spec = Spec("map", 2 * len(config.masks))

    def observe(self, sample: Sample) -> Observation:
        """``map``: (2 * kinds, H, W) float32.

        Raises
        ------
        MsdmError
            The sample lacks a mask kind.
        """
        maps = [torch.from_numpy(hv_maps(sample.labels(k), self.config.mode)) for k in self.config.masks]
        return {"map": torch.cat(maps)}

    def encode(self, batch: Observation) -> Signal:
        return Signal(batch["map"])

    def null(self, like: Signal) -> Signal:
        return absent_map(like)
