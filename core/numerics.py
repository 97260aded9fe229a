"""Where in a training step numbers first stop being finite."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.utils._pytree import tree_leaves

from . import guard
from .autoencoder import title as autoencoder_title
from .autoencoder import to_latents
from .denoiser import to_device
from .errors import MsdmError
from .injection import Injector
from .loader import Batch
from .precision import autocast
from .sharding import is_split, own_part

if TYPE_CHECKING:
    from .optimise import Optimiser


class NotFinite(MsdmError):
    """A step's loss or gradient is not finite. All processes of the job raise it, at the same place."""


class Cause(TypedDict):
    """Why one process's part of a step is not finite; JSON.

    `fields` are the ids of those concerned, `plugin` what a plugin does wrong with them, `first` where else
    it began; both are empty where all of it was finite when it was repeated. `shared` says whether `first` is
    what the processes hold together, so that another may have spoilt it.
    """

    fields: list[str]
    plugin: str
    first: str
    shared: bool


def find_cause(optimiser: "Optimiser", batches: Sequence[Batch]) -> Cause:
    """Repeat a step on the same random numbers, watching every module; weights and averages stay.

    Where weights are sharded, all processes call it, and each goes through all of its part of the step.

    Parameters
    ----------
    optimiser : Optimiser
        As it was before the step.
    batches : sequence of Batch
        Of the step.
    """
    sharded, causes = optimiser.sharded, list[Cause]()
    for batch in batches:
        if not _finite(batch.image):
            causes.append(Cause(fields=batch.ids, plugin="", first="the images", shared=False))
        if sharded or not causes:
            plugin = optimiser.within(partial(_faulty_plugin, optimiser, batch))
            if plugin:
                causes.append(Cause(fields=batch.ids, plugin=plugin, first="", shared=False))
        if causes and not sharded:
            return causes[0]
    fields, concerned = [id for batch in batches for id in batch.ids], list[str]()
    with watched(optimiser.denoiser) as found:
        for batch, losses in zip(batches, optimiser.losses(batches), strict=True):
            found.see(losses, lambda: "the loss")
            if sharded or not found.first:
                losses.sum().div(len(fields)).backward()  # type: ignore[no-untyped-call]
            if found.first and not concerned:
                values = zip(batch.ids, losses.tolist(), strict=True)
                concerned = [id for id, loss in values if not math.isfinite(loss)] or batch.ids
                if not sharded:
                    break
        gradients = [own_part(p.grad) for p in optimiser.parameters.values() if p.grad is not None]
        if gradients:
            norm, what = get_total_norm(gradients), "the norm of the gradients, each of which is finite"
            found.see(norm, lambda: what, shared=sharded)
    for p in optimiser.parameters.values():
        p.grad = None
    if causes:
        return causes[0]
    return Cause(fields=concerned or fields, plugin="", first=found.first, shared=found.shared)


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
    known = [cause for cause in causes if cause["plugin"] or cause["first"]]
    own = [cause for cause in known if not cause["shared"]] or known or list(causes)
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


class Watch:
    """The place of the first number that was not finite.

    Attributes
    ----------
    first : str
        Empty as long as all are.
    shared : bool
        Whether it is of the gradient of a weight that is split among processes: a sum over all of them.
    """

    def __init__(self) -> None:
        self.first, self.shared = "", False

    def see(self, tree: Any, text: Callable[[], str], *, shared: bool = False) -> None:
        """Look at all tensors of a tree; `text` names it."""
        # what a process has for itself tells more than what others may have spoilt
        if (not self.first or (self.shared and not shared)) and not _finite(tree):
            self.first, self.shared = text(), shared


@contextmanager
def watched(network: nn.Module) -> Iterator[Watch]:
    """Look at every number of the forward and backward passes within the block. It is slow.

    Parameters
    ----------
    network : nn.Module

    Yields
    ------
    Watch
        Of a forward pass it names the output of the innermost module that made such numbers from finite
        ones, or what goes into a module where they were made between two; of a backward pass the gradient of
        a weight or of a module's output.
    """
    found = Watch()
    look = found.see

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
        def tell(t: Tensor) -> None:
            # of a weight, what has been gathered so far; of another tensor, the gradient itself
            gradient = t.grad if isinstance(t, nn.Parameter) else t
            look(gradient, lambda: f"the gradient of {name}", shared=is_split(t))

        return tell

    # FSDP2 puts modules into subclasses
    classes = {m: type(m).__name__.removeprefix("FSDP") for m in network.modules()}
    names = {m: f"{n} ({classes[m]})" for n, m in network.named_modules() if n}
    handles = []
    for name, p in network.named_parameters():
        if p.requires_grad:
            handles.append(p.register_post_accumulate_grad_hook(gathered(name)))  # type: ignore[no-untyped-call]
    injectors = [module for module in names if isinstance(module, Injector)]
    for module in names:
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))
    kept = {injector: vars(injector).get("inject") for injector in injectors}
    for injector in injectors:
        # `inject` is no forward pass, and no hook sees it
        vars(injector)["inject"] = _seen(injector, look)
    try:
        yield found
    finally:
        for injector, inject in kept.items():
            del vars(injector)["inject"]
            if inject is not None:
                vars(injector)["inject"] = inject
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
        bool(torch.isfinite(own_part(leaf)).all())
        for leaf in tree_leaves(tree)
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    )


def _own_fault(module: nn.Module) -> str:
    """Whether a module's own weights are the cause."""
    bad = [name for name, p in module.named_parameters(recurse=False) if not _finite(p.detach())]
    return f", whose {bad[0]} is not finite" if bad else ""
