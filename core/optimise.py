"""One optimiser step: forward, loss, backward, clipping, learning rate, EMA."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from . import guard
from .autoencoder import to_latents
from .denoiser import Denoiser, to_device
from .diffusion import q_sample
from .ema import Ema
from .errors import MsdmError
from .loader import Batch
from .losses import training_losses
from .numerics import NotFinite, find_cause, message
from .parts import read_parts
from .precision import autocast
from .processes import ALONE, Processes
from .recipe import TrainSection
from .replicas import Replicas
from .seeds import seed_for, seed_globals
from .sharding import own_part, split_as, whole, with_part
from .share import share_of_step

T = TypeVar("T")


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did.

    Attributes
    ----------
    step : int
        Optimiser steps done, this one included.
    loss : float
        Mean over the images of the step.
    gradient_norm : float
        Before clipping.
    lr : float
    images : int
        Crops seen in this step.
    """

    step: int
    loss: float
    gradient_norm: float
    lr: float
    images: int


def learning_rate(section: TrainSection, step: int, total: int) -> float:
    """Of optimiser step `step` (from 0) of `total`: linear warm-up, then constant or a half cosine to 0."""
    warm = min(1.0, (step + 1) / (section.warmup + 1))
    if section.decay == "constant" or step < section.warmup:
        return section.lr * warm
    done = (step - section.warmup) / max(1, total - section.warmup)
    return section.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Optimiser:
    """The state of a training run: weights, their average, the optimiser, and the number of steps done.

    All random numbers of an image are drawn from (seed, step, its place in the step), so that nothing but
    this state is needed to go on exactly where a run stopped, and they do not depend on how a step is cut
    into forward passes and shared out among processes. Masks of dropout alone are drawn for whole passes.

    Parameters
    ----------
    denoiser : Denoiser
        On its device.
    section : TrainSection
    total : int
        Optimiser steps of the whole run, for the learning rate.
    drop : mapping name -> float
        Probability of each condition's absence.
    here : Processes
        This process among those that share each step; all hold the same state.

    Attributes
    ----------
    done : int
        Optimiser steps done.
    whole : bool
        False after a failure in the middle of the update, when weights are neither before nor after it.

    Raises
    ------
    MsdmError
        The processes cannot share the images of a step evenly.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        section: TrainSection,
        *,
        total: int,
        drop: Mapping[str, float],
        here: Processes = ALONE,
    ) -> None:
        self.denoiser = denoiser
        self.section = section
        self.total = total
        self.drop = dict(drop)
        self.here = here
        self.share = share_of_step(section, here)
        self.done = 0
        self.whole = True
        sharded = section.sharding == "full"
        self._replicas = Replicas(denoiser, self._loss, here, sharded=sharded)
        self.parameters = {n: p for n, p in denoiser.named_parameters() if p.requires_grad}
        # Each process steps its parts of what is split, as plain tensors in the same memory.
        self._parts = {
            n: nn.Parameter(own_part(p.detach())) if self.sharded else p for n, p in self.parameters.items()
        }
        make = torch.optim.AdamW if section.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = make(
            list(self._parts.values()),
            lr=section.lr,
            betas=section.betas,
            weight_decay=section.weight_decay,
            fused=True,
        )
        self.ema = Ema(denoiser, section.ema)

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    def step(self, batches: Sequence[Batch]) -> StepReport:
        """One optimiser step over the micro-batches of `batches`: this process's share of the step.

        Raises
        ------
        NotFinite
            The loss or the gradient is not finite; weights are left as they were.
        MsdmError
            A plugin fails; weights are left as they were.
        """
        seed_globals(self.section.seed, "dropout", self.done, self.share.first)
        self.denoiser.train()
        images = sum(len(b.ids) for b in batches)
        total = torch.zeros((), device=self.device)
        place = self.share.first
        for i, batch in enumerate(batches):
            with guard.explained(), self._replicas.passing(last=i == len(batches) - 1):
                with record_function("step.draw"):
                    drawn = self._draw(batch, place)
                losses = self._replicas.train(batch, *drawn)
                loss = losses.sum() / images
                place += len(batch.ids)
                with record_function("step.backward"):
                    loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self.here.add(total).div_(self.here.count)
        with record_function("step.clip"):
            norm = self._gradient_norm()
            # the one time in a step that the device is waited for: one read-back for both numbers
            loss_value, norm_value = torch.stack([total, norm]).tolist()
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            self.optimizer.zero_grad(set_to_none=True)
            causes = self.here.gather(find_cause(self, batches))
            raise NotFinite(message(self.done + 1, loss_value, norm_value, causes))
        lr = learning_rate(self.section, self.done, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        limit = self.section.clip
        # where the norm is smaller, every gradient would be multiplied by one
        if limit is not None and norm_value > 0.999 * limit:
            with record_function("step.clip"):
                clip_grads_with_norm_(self._parts.values(), limit, norm)
        self.whole = False
        with record_function("step.optimiser"):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        with record_function("step.ema"):
            self.ema.update()
        self.done += 1
        self.whole = True
        return StepReport(self.done, loss_value, norm_value, lr, images)

    def _gradient_norm(self) -> Tensor:
        """Of all gradients, which the optimiser has from here on."""
        if not self.sharded:
            return get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])
        for n, p in self.parameters.items():
            self._parts[n].grad = None if p.grad is None else own_part(p.grad)
            p.grad = None
        norm = get_total_norm([p.grad for p in self._parts.values() if p.grad is not None])
        return self.here.add(norm.square()).sqrt()

    def losses(self, batches: Sequence[Batch]) -> Iterator[Tensor]:
        """Loss per image (B,) of each micro-batch of the next step, of the numbers that it draws."""
        seed_globals(self.section.seed, "dropout", self.done, self.share.first)
        place = self.share.first
        for batch in batches:
            with record_function("step.draw"):
                drawn = self._draw(batch, place)
            yield self.loss_at(batch, *drawn)
            place += len(batch.ids)

    def within(self, compute: Callable[[], T]) -> T:
        """What a computation with the network returns. Where it is sharded, all call it as often."""
        return self._replicas.within(compute)

    def _draw(self, batch: Batch, place: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Time steps, noise and absent conditions of images that stand in the step from `place` on."""
        b, g = len(batch.ids), torch.Generator()
        index = torch.empty(b, dtype=torch.long)
        shape = self.denoiser.autoencoder.shape(batch.image.shape)
        noise = torch.empty(shape, pin_memory=self.device.type == "cuda")
        absent = {n: torch.empty(b, dtype=torch.bool) for n in self.drop}
        for row in range(b):
            g.manual_seed(seed_for(self.section.seed, "diffusion", self.done, place + row))
            index[row] = torch.randint(len(self.denoiser.schedule), (), generator=g)
            noise[row].normal_(generator=g)
            for name, p in self.drop.items():
                absent[name][row] = torch.rand((), generator=g) < p
        return index, noise, absent

    def loss_at(self, batch: Batch, index: Tensor, noise: Tensor, absent: Mapping[str, Tensor]) -> Tensor:
        """Loss per image (B,) at given time steps (B,), noise (B, C, H, W) and absent conditions (B,).

        The noise has the shape of the latents; without an autoencoder these are the images. All are given on
        the CPU, where the schedule is: nothing waits for the device. Where weights are sharded, all processes
        call it as often.
        """
        return self._replicas.evaluate(batch, index, noise, absent)

    def _loss(self, batch: Batch, index: Tensor, noise: Tensor, absent: Mapping[str, Tensor]) -> Tensor:
        device, denoiser = self.device, self.denoiser
        image, noise = self._send(batch.image), self._send(noise)
        with record_function("step.latents"):
            x0 = to_latents(denoiser.autoencoder, image)
        x_t = q_sample(denoiser.schedule, x0, index, noise)
        with autocast(device, self.section.precision):
            with record_function("step.encode"):
                signals = denoiser.encode(to_device(batch.observations, device), len(batch.ids))
                signals = denoiser.drop(signals, {n: self._send(rows) for n, rows in absent.items()})
            with record_function("step.network"):
                raw = denoiser(x_t, self._send(index), signals)
        with record_function("step.loss"):
            return training_losses(
                denoiser.schedule,
                denoiser.diffusion,
                raw,
                x0=x0,
                x_t=x_t,
                noise=noise,
                index=index,
                quantised=denoiser.autoencoder.quantised,
            ).total

    def _send(self, tensor: Tensor) -> Tensor:
        """A tensor on the network's device, images in channels_last, without waiting for a GPU."""
        if self.device.type == "cuda" and not tensor.is_pinned():
            tensor = tensor.pin_memory()
        layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
        return tensor.to(self.device, non_blocking=True, memory_format=layout)

    @property
    def sharded(self) -> bool:
        """Whether this process holds only a part of the state."""
        return self._replicas.sharded

    def averages(self) -> dict[str, Tensor]:
        """The averaged weights, in full, on the CPU of the leader: a state of the denoiser; others have none.

        Where weights are sharded, all processes call it.
        """
        found: dict[str, Tensor] = {}
        with self.ema.applied():
            for name, tensor in self.denoiser.state_dict().items():
                full = whole(tensor)  # one at a time: together they may be more than the device holds
                if self.here.leads:
                    found[name] = full.to("cpu", copy=True)
        return found

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, as they lie and where they are, and JSON facts from which `load` goes on exactly."""
        tensors = {f"weights.{n}": t for n, t in self.denoiser.state_dict().items()}
        name_of = {id(p): n for n, p in self.parameters.items()}
        for n, p in self.denoiser.named_parameters(remove_duplicate=False):
            if id(p) in name_of:
                tensors[f"ema.{n}"] = with_part(p.detach(), self.ema.shadow[name_of[id(p)]])
        for n, p in self.parameters.items():
            for key, value in self.optimizer.state.get(self._parts[n], {}).items():
                tensors[f"optimizer.{key}.{n}"] = value if key == "step" else with_part(p.detach(), value)
        return tensors, {"step": self.done, "ema_updates": self.ema.updates}

    def load(
        self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], parts: Path | None = None
    ) -> None:
        """Take over a saved state.

        Parameters
        ----------
        tensors : mapping name -> Tensor
            In full. Where there are `parts`, their shapes and types alone count.
        facts : mapping
        parts : Path or None
            The folder that `write_parts` wrote them to: each process reads what it holds.

        Raises
        ------
        MsdmError
            The state is of another model, or is none that `state` gives; nothing is taken over then.
        """
        weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
        own = self.denoiser.state_dict()
        wanted = {f"weights.{n}": (t.shape, t.dtype) for n, t in own.items()}
        for n, p in self.parameters.items():
            wanted[f"ema.{n}"] = (p.shape, p.dtype)
            if f"optimizer.step.{n}" in tensors:
                wanted[f"optimizer.step.{n}"] = (torch.Size(), torch.float32)
                wanted |= {f"optimizer.{key}.{n}": (p.shape, p.dtype) for key in ("exp_avg", "exp_avg_sq")}
        found = {n: (t.shape, t.dtype) for n, t in tensors.items() if n in wanted}
        if weights.keys() != own.keys() or found != wanted:
            raise MsdmError("the checkpoint is of another model than the recipe; train into a new folder")
        for n, p in self.parameters.items():
            if f"optimizer.step.{n}" in tensors:
                # In the parameter's memory format: fused Adam walks its tensors as flat memory, and moments
                # in another order of elements than the parameter's would be those of other weights.
                moments = {key: torch.zeros_like(own_part(p.detach())) for key in ("exp_avg", "exp_avg_sq")}
                # the step counter is where fused Adam keeps it: beside the parameter
                self.optimizer.state[self._parts[n]] = {"step": torch.zeros((), device=p.device), **moments}
        state = {n: t for n, t in self.state()[0].items() if n in wanted}
        if parts is not None:
            read_parts(parts, state)
        else:
            for n, t in state.items():
                own_part(t).copy_(own_part(split_as(tensors[n], t)))
        # what a plugin derives from its weights, it derives here
        self.denoiser.load_state_dict({n: state[f"weights.{n}"] for n in own})
        self.done, self.ema.updates = int(facts["step"]), int(facts["ema_updates"])
