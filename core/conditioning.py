"""What an image is conditioned on: the Conditioner interface and the signals it emits.

Shape suffixes: B batch, C channels, H height, W width, L tokens, D features.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from .sample import Sample

SpecKind = Literal["map", "tokens", "vector"]
Observation = dict[str, Tensor]


class PluginConfig(BaseModel):
    """Base of every plugin's settings: unknown keys are refused, and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Spec:
    """The form of a condition.

    Attributes
    ----------
    kind : {'map', 'tokens', 'vector'}
        ``map`` is (B, C, H, W) at the size of the image, ``tokens`` (B, L, D) with a mask, ``vector`` (B, D).
    width : int
        C or D.
    """

    kind: SpecKind
    width: int


@dataclass(frozen=True)
class Signal:
    """An encoded condition of a batch.

    Attributes
    ----------
    data : Tensor
        (B, C, H, W), (B, L, D) or (B, D), floating point.
    mask : Tensor or None
        (B, L) bool for tokens, True where a token counts; at least one counts in every row.
    """

    data: Tensor
    mask: Tensor | None = None

    @property
    def constant(self) -> bool:
        """Whether this is a map that is the same at every pixel, by its strides: an expanded (B, C, 1, 1)."""
        return self.data.ndim == 4 and self.data.stride()[2:] == (0, 0)

    def counting(self) -> Tensor:
        """The mask of tokens (B, L) bool, spelt out where there is none: every token counts."""
        if self.mask is not None:
            return self.mask
        return torch.ones(self.data.shape[:2], dtype=torch.bool, device=self.data.device)

    def where(self, absent: Tensor, null: "Signal") -> "Signal":
        """This signal, with the rows of `absent` (B,) bool taken from `null`."""

        def pick(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(absent.view(-1, *[1] * (a.ndim - 1)), b.to(a.dtype), a)

        bare = self.mask is None and null.mask is None
        mask = None if bare else pick(self.counting(), null.counting())
        return Signal(pick(self.data, null.data), mask)


def merge(signals: Sequence[Signal], kind: SpecKind) -> Signal:
    """Several signals of one kind as one: maps and vectors joined on channels, tokens on length."""
    if len(signals) == 1:
        return signals[0]
    if all(s.constant for s in signals):
        size = signals[0].data.shape[2:]
        pixels = torch.cat([s.data[:, :, :1, :1] for s in signals], dim=1)
        return Signal(pixels.expand(-1, -1, *size))
    data = torch.cat([s.data for s in signals], dim=1)
    if kind != "tokens":
        return Signal(data)
    return Signal(data, torch.cat([s.counting() for s in signals], dim=1))


class Conditioner(nn.Module, ABC):
    """One condition, in two steps: `observe` on the CPU, `encode` on the device.

    A plugin sets `Config` and `reads`, and sets `spec` in its constructor. Built from a config and from
    the *facts* that `fit` learned on the training set (a vocabulary, a list of classes): facts are plain
    JSON, are saved with the weights, and are all that a trained model needs of its training set.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    reads: ClassVar[frozenset[str]] = frozenset()
    reach: ClassVar[int | None] = None
    """How far a map looks, in pixels: what it observes at a pixel depends on the instances that the pixel
    lies in, on the pixels up to so far from those, and on the sample's appearance and metadata alone. None is
    anywhere."""
    spec: Spec

    @classmethod
    def fit(cls, config: Any, rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """Learn facts from the training set's metadata.

        Parameters
        ----------
        config : PluginConfig
            The plugin's own `Config`.
        rows : sequence of mapping column -> str
            The manifest's rows of the training split.

        Returns
        -------
        dict
            JSON only: it is saved with the weights and handed back to the constructor.

        Raises
        ------
        MsdmError
            The data lack what the config names.
        """
        return {}

    def __init__(self, config: Any, facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.facts = dict(facts)

    @property
    def local(self) -> bool:
        """Whether a part of a field can be observed without the rest (see `reach`)."""
        return self.spec.kind == "map" and self.reach is not None

    @property
    def instance_classes(self) -> tuple[str, ...]:
        """Classes of instances that its settings name: a run tells at its start which of them no data has."""
        return ()

    def initialise(self) -> None:
        """Load pretrained weights, if the config names any. Called once, when a new run starts."""

    @abstractmethod
    def observe(self, sample: Sample) -> Observation:
        """What the condition sees of a sample. Deterministic, on the CPU, in a loader worker.

        It is called after augmentation, on the crop that the network sees.

        Parameters
        ----------
        sample : Sample

        Returns
        -------
        dict of str -> Tensor
            Without a batch dimension.
        """

    def collate(self, observations: Sequence[Observation]) -> Observation:
        """A batch of observations; stacks each entry. Override it to pad."""
        return {key: torch.stack([o[key] for o in observations]) for key in observations[0]}

    @abstractmethod
    def encode(self, batch: Observation) -> Signal:
        """The condition as the injectors take it, on the device of `batch`, as `spec` says."""

    @abstractmethod
    def null(self, like: Signal) -> Signal:
        """The absent condition, in the shape of `like`, distinct from every present one.

        A map that is the same at every pixel is best given as an expanded view (`constant_map`): what
        injectors prepare of it is then a small patch.
        """


def constant_map(pixel: Tensor, like: Signal) -> Signal:
    """A map that is `pixel` (C,) everywhere, in the shape, dtype and device of `like`: a view."""
    return Signal(pixel.to(like.data)[None, :, None, None].expand_as(like.data))


def at(signal: Signal, rows: Tensor | slice) -> Signal:
    """The rows of a signal."""
    return replace(signal, data=signal.data[rows], mask=None if signal.mask is None else signal.mask[rows])
