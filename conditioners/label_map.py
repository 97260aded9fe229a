"""Morphology as a one-hot map of kinds and classes, and an edge map of instances."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator

from ..core.conditioning import Conditioner, Observation, PluginConfig, Signal, Spec, constant_map
from ..core.sample import Sample, instance_edges
from .maps import MaskKinds


class LabelMapConfig(PluginConfig):
    """Settings of `LabelMap`."""

    masks: MaskKinds = Field(
        ("cell", "nucleus"), description="Mask kinds, in the order of their channels; a later one covers."
    )
    classes: tuple[str, ...] = Field(
        (),
        max_length=64,
        description="Classes of instances, in the order of their channels; an instance of none of these "
        "counts as its mask kind alone.",
    )
    edges: bool = Field(True, description="Whether a channel marks the edges of the instances.")

    @field_validator("classes")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"a class is named twice in {', '.join(names)}; name each once")
        return names


class LabelMap(Conditioner):
    """One-hot of background, kinds and classes, and instance edges: 1 + kinds + classes + 1 channels.

    A pixel is of the last kind of `masks` that covers it, so that a nucleus shows within its cell; where that
    instance has one of `classes`, it is of the class and not of the kind. The condition of SDM (Wang et al.
    2022, arXiv 2207.00050); with classes of nuclei that of NASDM (Shrivastava and Fletcher 2023). The absent
    map is zero, which no one-hot is.
    """

    Config = LabelMapConfig
    reads = frozenset({"morphology"})
    reach = 1

    def __init__(self, config: LabelMapConfig, facts: Mapping[str, Any]) -> None:
        super().__init__(config, facts)
        self._channels = 1 + len(config.masks) + len(config.classes)
        self._index = {name: 1 + len(config.masks) + i for i, name in enumerate(config.classes)}
        self.spec = Spec("map", self._channels + config.edges)

    @property
    def instance_classes(self) -> tuple[str, ...]:
        classes: tuple[str, ...] = self.config.classes
        return classes

    def observe(self, sample: Sample) -> Observation:
        """``classes``: (H, W) uint8, the channel, 0 is background; with edges ``edges``: (H, W) bool.

        Raises
        ------
        MsdmError
            The sample lacks a mask kind.
        """
        masks = [sample.labels(kind) for kind in self.config.masks]
        classes = np.zeros(masks[0].shape, dtype=np.uint8)
        for i, (kind, mask) in enumerate(zip(self.config.masks, masks, strict=True), start=1):
            inside = mask > 0
            classes[inside] = i
            named = {k: self._index[c] for k, c in sample.classes.get(kind, {}).items() if c in self._index}
            if named:
                labels, where = np.unique(mask[inside], return_inverse=True)
                classes[inside] = np.array([named.get(k, i) for k in labels.tolist()], dtype=np.uint8)[where]
        observation = {"classes": torch.from_numpy(classes)}
        if self.config.edges:
            # an instance that the field's border cuts has no edge there, padded or not
            height, width = sample.unpadded or sample.size
            edges = np.zeros(sample.size, dtype=bool)
            for mask in masks:
                edges[:height, :width] |= instance_edges(mask[:height, :width])
            observation["edges"] = torch.from_numpy(edges)
        return observation

    def encode(self, batch: Observation) -> Signal:
        classes = batch["classes"]
        legal = torch.arange(self._channels, device=classes.device).view(1, -1, 1, 1)
        channels = [classes[:, None] == legal]
        if self.config.edges:
            channels.append(batch["edges"][:, None])
        return Signal(torch.cat(channels, dim=1).float())

    def null(self, like: Signal) -> Signal:
        return constant_map(torch.zeros(like.data.shape[1]), like)
