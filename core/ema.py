"""Exponential moving average of the weights, with warm-up."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .recipe import EmaSection
from .sharding import is_split, own_part


class Ema:
    """Averages of a module's trainable parameters: shadow = d shadow + (1 - d) parameter.

    Of parameters that are split among processes, each has the averages of its part.

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
        self.shadow: dict[str, Tensor] = {
            n: own_part(p.detach()).clone() for n, p in self._parameters.items()
        }

    @property
    def decay(self) -> float:
        """d of the next update."""
        return min(self.section.decay, (1 + self.updates) / (self.section.warmup + self.updates))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's current parameters."""
        average = get_ema_multi_avg_fn(self.decay)  # type: ignore[no-untyped-call]
        current = [own_part(p.detach()) for p in self._parameters.values()]
        average(list(self.shadow.values()), current, self.updates)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the module holds the averages; they must not be trained there."""
        # what is split among processes is computed with where it lies: it is copied there, and back
        split = {n: own_part(p.detach()) for n, p in self._parameters.items() if is_split(p)}
        kept = {n: split[n].clone() if n in split else p.data for n, p in self._parameters.items()}
        try:
            for n, p in self._parameters.items():
                if n in split:
                    split[n].copy_(self.shadow[n])
                else:
                    p.data = self.shadow[n]
            yield
        finally:
            for n, p in self._parameters.items():
                if n in split:
                    split[n].copy_(kept[n])
                else:
                    p.data = kept[n]
