"""Exponential moving average of the weights, with warm-up."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .recipe import EmaSection


class Ema:
    """Averages of a module's trainable parameters: shadow = d shadow + (1 - d) parameter.

    d = min(decay, (1 + n) / (warmup + n)) after n updates, so that early averages are not those of the
    initial noise (`tf.train.ExponentialMovingAverage`'s rule for warmup 10).

    Parameters
    ----------
    module : nn.Module
    section : EmaSection
    """

    def __init__(self, module: nn.Module, section: EmaSection) -> None:
        self.section = section
        self.updates = 0
        self._parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.shadow: dict[str, Tensor] = {n: p.detach().clone() for n, p in self._parameters.items()}

    @property
    def decay(self) -> float:
        """d of the next update."""
        return min(self.section.decay, (1 + self.updates) / (self.section.warmup + self.updates))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's current parameters."""
        average = get_ema_multi_avg_fn(self.decay)  # type: ignore[no-untyped-call]
        average(list(self.shadow.values()), [p.detach() for p in self._parameters.values()], self.updates)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the module holds the averages; they must not be trained there."""
        kept = {n: p.data for n, p in self._parameters.items()}
        try:
            for n, p in self._parameters.items():
                p.data = self.shadow[n]
            yield
        finally:
            for n, p in self._parameters.items():
                p.data = kept[n]
