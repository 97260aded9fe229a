"""Where in a training step numbers first stop being finite."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.utils._pytree import tree_leaves

from . import guard
from .autoencoder import title as autoencoder_title
from .autoencoder import to_latents
from .denoiser import to_device
from .injection import Injector
from .loader import Batch
from .precision import autocast

if TYPE_CHECKING:
    from .optimise import Optimiser


class Cause(TypedDict):
    """Why one process's part of a step is not finite; JSON.

    `fields` are the ids of those concerned, `plugin` what a plugin does wrong with them, `first` where else
    it began; both are empty where all of it was finite when it was repeated.
    """

    fields: list[str]
    plugin: str
    first: str


def find_cause(optimiser: "Optimiser", batches: Sequence[Batch]) -> Cause:
    """Repeat a step on the same random numbers, watching every module; weights and averages stay.

    Parameters
    ----------
    optimiser : Optimiser
        As it was before the step.
    batches : sequence of Batch
        Of the step.
    """
    for batch in batches:
        if not _finite(batch.image):
            return Cause(fields=batch.ids, plugin="", first="the images")
        if plugin := _faulty_plugin(optimiser, batch):
            return Cause(fields=batch.ids, plugin=plugin, first="")
    fields = [id for batch in batches for id in batch.ids]
    with watched(optimiser.denoiser) as found:
        for batch, losses in zip(batches, optimiser.losses(batches), strict=True):
            if not found and not _finite(losses):
                found.append("the loss")
            if not found:
                losses.sum().div(len(fields)).backward()  # type: ignore[no-untyped-call]
            if found:
                values = zip(batch.ids, losses.tolist(), strict=True)
                fields = [id for id, loss in values if not math.isfinite(loss)] or batch.ids
                break
        gradients = [p.grad for p in optimiser.parameters.values() if p.grad is not None]
        if not found and gradients and not _finite(get_total_norm(gradients)):
            found.append("the norm of the gradients, each of which is finite")
    optimiser.optimizer.zero_grad(set_to_none=True)
    return Cause(fields=fields, plugin="", first="".join(found))


def unexplained(optimiser: "Optimiser", batches: Sequence[Batch]) -> Cause:
    """What `find_cause` would say of a step that is not repeated."""
    fields = [id for batch in batches for id in batch.ids]
    return Cause(fields=fields, plugin="", first="the loss or its gradients")


def _faulty_plugin(optimiser: "Optimiser", batch: Batch) -> str:
    """What to say of the plugin that gives the network numbers that are not finite, if one does."""
    denoiser, device = optimiser.denoiser, optimiser.device
    if not _finite(to_latents(denoiser.autoencoder, batch.image.to(device))):
        return f"{autoencoder_title(denoiser.autoencoder)} encodes numbers that are not finite"
    with torch.no_grad(), autocast(device, optimiser.section.precision):
        signals = denoiser.encode(to_device(batch.observations, device))
    for name in guard.not_finite(signals):
        return f"{guard.title(name, denoiser.conditioner(name))} encodes numbers that are not finite"
    return ""


def message(step: int, loss: float, norm: float, causes: Sequence[Cause]) -> str:
    """What to tell the user of a step that was not finite.

    Parameters
    ----------
    step : int
        Counted from 1.
    loss, norm : float
        Of the whole step.
    causes : sequence of Cause
        Of every process; where all of one was finite, the gradients of another have spoilt it.
    """
    own = [cause for cause in causes if cause["plugin"] or cause["first"]] or list(causes)
    ids = ", ".join(id for cause in own for id in cause["fields"])
    kept = "weights are as before this step"
    if plugin := next((cause["plugin"] for cause in own if cause["plugin"]), ""):
        return f"step {step}: {plugin}, on fields {ids}; {kept}; look at these fields, or mend its plugin"
    first = next((cause["first"] for cause in own if cause["first"]), "")
    where = f"first in {first}" if first else "all was finite when the step was repeated"
    return (
        f"step {step}: loss {loss}, gradient norm {norm}, on fields {ids}; {where}; {kept}; lower train.lr "
        f"or set train.precision=fp32, and look at these fields"
    )


@contextmanager
def watched(network: nn.Module) -> Iterator[list[str]]:
    """Look at every number of the forward and backward passes within the block. It is slow.

    Parameters
    ----------
    network : nn.Module

    Yields
    ------
    list of str
        Empty, until a number is not finite: then one text that says where the first was. Of a forward pass
        this is the output of the innermost module that made it from finite numbers, or what goes into a
        module where it was made between two; of a backward pass the gradient of a weight or of a module's
        output.
    """
    found: list[str] = []

    def look(tree: Any, text: Callable[[], str]) -> None:
        if not found and not _finite(tree):
            found.append(text())

    def before(module: nn.Module, inputs: Any, named: Any) -> None:
        look((inputs, named), lambda: f"what goes into {names[module]}")

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        name = names[module]
        look(output, lambda: f"the output of {name}{_own_fault(module)}")
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                told = gathered(f"the output of {name}")
                tensor.register_hook(told)  # type: ignore[no-untyped-call]

    def gathered(name: str) -> Callable[[Tensor], None]:
        # of a weight, what has been gathered so far; of another tensor, the gradient itself
        return lambda t: look(t.grad if isinstance(t, nn.Parameter) else t, lambda: f"the gradient of {name}")

    names = {m: f"{n} ({type(m).__name__})" for n, m in network.named_modules() if n}
    handles = []
    for name, p in network.named_parameters():
        if p.requires_grad:
            handles.append(p.register_post_accumulate_grad_hook(gathered(name)))  # type: ignore[no-untyped-call]
    injectors = [module for module in names if isinstance(module, Injector)]
    for module in names:
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))
    for injector in injectors:
        # `inject` is no forward pass, and no hook sees it
        vars(injector)["inject"] = _seen(injector, look)
    try:
        yield found
    finally:
        for injector in injectors:
            del vars(injector)["inject"]
        for handle in handles:
            handle.remove()


def _seen(injector: Injector, look: Callable[[Any, Callable[[], str]], None]) -> Callable[..., Tensor]:
    inject = injector.inject
    name = guard.title(injector.site.name, injector, "injector at site")

    def call(*inputs: Any) -> Tensor:
        look(inputs, lambda: f"what goes into {name}")
        out = inject(*inputs)
        look(out, lambda: f"the output of {name}")
        return out

    return call


def _finite(tree: Any) -> bool:
    return all(
        bool(torch.isfinite(leaf).all())
        for leaf in tree_leaves(tree)
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    )


def _own_fault(module: nn.Module) -> str:
    """Whether a module's own weights are the cause."""
    bad = [name for name, p in module.named_parameters(recurse=False) if not _finite(p.detach())]
    return f", whose {bad[0]} is not finite" if bad else ""
