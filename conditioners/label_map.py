"""Morphology as a one-hot map of classes and an edge map of instances."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field

from ..core.conditioning import Conditioner, Observation, PluginConfig, Signal, Spec, constant_map
from ..core.sample import Sample, instance_edges
from .maps import MaskKinds


class LabelMapConfig(PluginConfig):
    """Settings of `LabelMap`."""

    masks: MaskKinds = Field(
        ("cell", "nucleus"), description="Mask kinds, in the order of their channels; a later one covers."
    )
    edges: bool = Field(True, description="Whether a channel marks the edges of the instances.")


class LabelMap(Conditioner):
    """One-hot of background and kinds, and instance edges: a map of 1 + kinds + 1 channels.

    A pixel is of the last kind of `masks` that covers it, so that a nucleus shows within its cell. The
    condition of SDM (Wang et al. 2022, arXiv 2207.00050). The absent map is zero, which no one-hot is.
    """

    Config = LabelMapConfig
    reads = frozenset({"morphology"})

    def __init__(self, config: LabelMapConfig, facts: Mapping[str, Any]) -> None:
        super().__init__(config, facts)
        self.spec = Spec("map", 1 + len(config.masks) + config.edges)

    def observe(self, sample: Sample) -> Observation:
        """``classes``: (H, W) uint8, 0 is background; with edges ``edges``: (H, W) bool.

        Raises
        ------
        MsdmError
            The sample lacks a mask kind.
        """
        masks = [sample.labels(kind) for kind in self.config.masks]
        classes = np.zeros(masks[0].shape, dtype=np.uint8)
        for i, mask in enumerate(masks, start=1):
            classes[mask > 0] = i
        observation = {"classes": torch.from_numpy(classes)}
        if self.config.edges:
            edges = np.logical_or.reduce([instance_edges(mask) for mask in masks])
            observation["edges"] = torch.from_numpy(edges)
        return observation

    def encode(self, batch: Observation) -> Signal:
        classes = batch["classes"]
        legal = torch.arange(1 + len(self.config.masks), device=classes.device).view(1, -1, 1, 1)
        channels = [classes[:, None] == legal]
        if self.config.edges:
            channels.append(batch["edges"][:, None])
        return Signal(torch.cat(channels, dim=1).float())

    def null(self, like: Signal) -> Signal:
        return constant_map(torch.zeros(like.data.shape[1]), like)
