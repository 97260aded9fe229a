"""One network in several processes, whose gradients are means over all of them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .denoiser import Denoiser
from .processes import Processes
from .sharding import shard

T = TypeVar("T")


class _Pass(nn.Module):
    """A computation as the forward pass of the weights that it uses: what torch's wrappers are put around."""

    def forward(self, compute: Callable[[], T]) -> T:
        return compute()


class Replicas:
    """The loss of a network that all processes train together.

    After the backward pass of a step's last loss, gradients are the means over processes of what they
    gathered in the step. In one process this is the loss itself.

    Parameters
    ----------
    denoiser : Denoiser
        On its device, the same in every process. Where it is sharded, its parameters are others from here on.
    loss : callable
        Of the denoiser.
    here : Processes
    sharded : bool
        Whether each process holds only its part of the weights; otherwise all of them.
    """

    def __init__(
        self, denoiser: Denoiser, loss: Callable[..., Tensor], here: Processes, *, sharded: bool = False
    ) -> None:
        self._loss = loss
        self._ddp: DistributedDataParallel | None = None
        self._root: Any = None
        if here.count == 1:
            return
        module = _Pass()
        if sharded:
            module.denoiser = denoiser
            shard(module, denoiser, here)
            self._root = module
            return
        module.weights = nn.ParameterList(p for p in denoiser.parameters() if p.requires_grad)
        # torch warns of `find_unused_parameters` where there are none that a step does not use
        module.unused = nn.Parameter(torch.zeros(1, device=next(denoiser.parameters()).device))
        # a recipe may have weights that a step does not use, such as those of a plugin that picks some
        self._ddp = DistributedDataParallel(module, find_unused_parameters=True)

    @property
    def sharded(self) -> bool:
        """Whether this process holds only a part of the weights."""
        return self._root is not None

    def train(self, *inputs: Any) -> Tensor:
        """The loss of this process, whose gradients go to all."""
        # as one argument that torch does not look into: it would move tensors to the device
        compute = partial(self._loss, *inputs)
        module = self._ddp or self._root
        return compute() if module is None else module(compute)

    def evaluate(self, *inputs: Any) -> Tensor:
        """The loss alone. Where weights are sharded, all processes call it as often."""
        return self.within(partial(self._loss, *inputs))

    def within(self, compute: Callable[[], T]) -> T:
        """What a computation with the weights returns. Where they are sharded, all call it as often."""
        return compute() if self._root is None else self._root(compute)

    def passing(self, *, last: bool) -> AbstractContextManager[None]:
        """Around a forward and a backward pass; the others are waited for in the last one of a step alone."""
        if self._root is not None:
            self._root.set_requires_gradient_sync(last)
            self._root.set_is_last_backward(last)
        return nullcontext() if self._ddp is None or last else self._ddp.no_sync()
