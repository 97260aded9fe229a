"""Operations of a sample, counted on the meta device; a multiplication and an addition are two."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from .reference import MAP_CHANNELS, Config, Reference, our_denoiser, our_recipe


@dataclass(frozen=True)
class Flops:
    """Of convolutions, matrix products and attention, for a batch of one.

    Attributes
    ----------
    whole : int
        A pass of the reference's network, which is one of ours that keeps nothing.
    prepare : int
        What ours computes once per sample.
    encode : int
        What ours computes once per step for both branches of guidance.
    """

    whole: int
    prepare: int
    encode: int

    @classmethod
    @torch.no_grad()
    def of(cls, reference: Reference, config: Config) -> "Flops":
        """Count both networks."""
        theirs = reference.unet(config, "meta")
        ours = our_denoiser(our_recipe(config, reference), config, None, "meta").eval()
        with torch.device("meta"):
            x = torch.empty(1, 3, config.size, config.size)
            y = torch.empty(1, MAP_CHANNELS, config.size, config.size)
            t = torch.zeros(1, dtype=torch.int64)
        signals = ours.encode({"map": {"map": y}})
        with FlopCounterMode(display=False) as whole:
            theirs(x, t, y)
        with FlopCounterMode(display=False) as prepare:
            states = ours.prepare(signals)
        with FlopCounterMode(display=False) as encode:
            ours.backbone.encode(x, t, ours.bind(states))
        return cls(*(counter.get_total_flops() for counter in (whole, prepare, encode)))

    def theirs(self, evaluations: int, guidance: float) -> int:
        """Of a sample of the reference; guidance doubles its passes."""
        return self.whole * evaluations * (2 if guidance > 1 else 1)

    def ours(self, evaluations: int, guidance: float) -> int:
        """Of a sample of ours that keeps all it can; the absent condition's patches are left out."""
        decode = self.whole - self.prepare - self.encode
        return self.prepare + evaluations * (self.encode + decode * (2 if guidance > 1 else 1))
