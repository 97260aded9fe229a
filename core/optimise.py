"""One optimiser step: forward, loss, backward, clipping, learning rate, EMA."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from . import guard
from .denoiser import Denoiser, to_device
from .diffusion import q_sample
from .ema import Ema
from .errors import MsdmError
from .loader import Batch
from .losses import training_losses
from .precision import autocast
from .recipe import TrainSection
from .seeds import seed_for


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

    All random numbers of a step are drawn from (seed, step), so that nothing but this state is needed to go
    on exactly where a run stopped.

    Parameters
    ----------
    denoiser : Denoiser
        On its device.
    section : TrainSection
    total : int
        Optimiser steps of the whole run, for the learning rate.
    drop : mapping name -> float
        Probability of each condition's absence.
    """

    def __init__(
        self, denoiser: Denoiser, section: TrainSection, *, total: int, drop: Mapping[str, float]
    ) -> None:
        self.denoiser = denoiser
        self.section = section
        self.total = total
        self.drop = dict(drop)
        self.done = 0
        self.parameters = {n: p for n, p in denoiser.named_parameters() if p.requires_grad}
        make = torch.optim.AdamW if section.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = make(
            list(self.parameters.values()),
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
        """One optimiser step over the micro-batches of `batches`.

        Raises
        ------
        MsdmError
            The loss or the gradient is not finite, or a plugin fails; weights are left as they were.
        """
        torch.manual_seed(seed_for(self.section.seed, "dropout", self.done))
        self.denoiser.train()
        images = sum(len(b.ids) for b in batches)
        total = torch.zeros((), device=self.device)
        for i, batch in enumerate(batches):
            with guard.explained():
                losses = self._losses(batch, seed_for(self.section.seed, "diffusion", self.done, i))
                loss = losses.sum() / images
                with record_function("step.backward"):
                    loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        with record_function("step.clip"):
            norm = get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])
            # the one time in a step that the device is waited for: one read-back for both numbers
            loss_value, norm_value = torch.stack([total, norm]).tolist()
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            self.optimizer.zero_grad(set_to_none=True)
            ids = [i for b in batches for i in b.ids]
            self._blame_conditions(batches)
            raise MsdmError(
                f"step {self.done + 1}: loss {loss_value}, gradient norm {norm_value}, on fields "
                f"{', '.join(ids)}; weights are as before this step; lower train.lr or set "
                f"train.precision=fp32, and look at these fields"
            )
        lr = learning_rate(self.section, self.done, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        limit = self.section.clip
        # where the norm is smaller, every gradient would be multiplied by one
        if limit is not None and norm_value > 0.999 * limit:
            with record_function("step.clip"):
                clip_grads_with_norm_(self.parameters.values(), limit, norm)
        with record_function("step.optimiser"):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        with record_function("step.ema"):
            self.ema.update()
        self.done += 1
        return StepReport(self.done, loss_value, norm_value, lr, images)

    def _blame_conditions(self, batches: Sequence[Batch]) -> None:
        """Raise an MsdmError that names a condition whose numbers are not finite, if one is the cause."""
        for batch in batches:
            with torch.no_grad(), autocast(self.device, self.section.precision):
                signals = self.denoiser.encode(to_device(batch.observations, self.device))
            for name in guard.not_finite(signals):
                raise MsdmError(
                    f"step {self.done + 1}: {guard.title(name, self.denoiser.conditioner(name))} encodes "
                    f"numbers that are not finite, on fields {', '.join(batch.ids)}; weights are as before "
                    f"this step; look at these fields, or mend its plugin"
                )

    def _losses(self, batch: Batch, seed: int) -> Tensor:
        """Loss per image (B,), its noise and time steps drawn on the CPU from `seed`."""
        g = torch.Generator().manual_seed(seed)
        b = len(batch.ids)
        with record_function("step.draw"):
            index = torch.randint(len(self.denoiser.schedule), (b,), generator=g)
            noise = torch.randn(batch.image.shape, generator=g, pin_memory=self.device.type == "cuda")
            absent = {n: torch.rand(b, generator=g) < p for n, p in self.drop.items()}
        return self.loss_at(batch, index, noise, absent)

    def loss_at(self, batch: Batch, index: Tensor, noise: Tensor, absent: Mapping[str, Tensor]) -> Tensor:
        """Loss per image (B,) at given time steps (B,), noise (B, 3, H, W) and absent conditions (B,).

        All are given on the CPU, where the schedule is: nothing waits for the device.
        """
        device, denoiser = self.device, self.denoiser
        x0, noise = self._send(batch.image), self._send(noise)
        x_t = q_sample(denoiser.schedule, x0, index, noise)
        with autocast(device, self.section.precision):
            with record_function("step.encode"):
                signals = denoiser.encode(to_device(batch.observations, device), len(batch.ids))
                signals = denoiser.drop(signals, {n: self._send(rows) for n, rows in absent.items()})
            with record_function("step.network"):
                raw = denoiser(x_t, self._send(index), signals)
        with record_function("step.loss"):
            return training_losses(
                denoiser.schedule, denoiser.diffusion, raw, x0=x0, x_t=x_t, noise=noise, index=index
            ).total

    def _send(self, tensor: Tensor) -> Tensor:
        """A tensor on the network's device, images in channels_last, without waiting for a GPU."""
        if self.device.type == "cuda" and not tensor.is_pinned():
            tensor = tensor.pin_memory()
        layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
        return tensor.to(self.device, non_blocking=True, memory_format=layout)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON facts from which `load` goes on exactly."""
        tensors = {f"weights.{n}": t for n, t in self.denoiser.state_dict().items()}
        tensors |= {f"ema.{n}": t for n, t in self.ema.shadow.items()}
        for n, p in self.parameters.items():
            for key, value in self.optimizer.state.get(p, {}).items():
                tensors[f"optimizer.{key}.{n}"] = torch.as_tensor(value)
        return tensors, {"step": self.done, "ema_updates": self.ema.updates}

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Raises
        ------
        MsdmError
            The state is of another model.
        """
        weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
        own = self.denoiser.state_dict()
        if weights.keys() != own.keys() or any(weights[k].shape != own[k].shape for k in own):
            raise MsdmError("the checkpoint is of another model than the recipe; train into a new folder")
        self.denoiser.load_state_dict(weights)
        for n, p in self.parameters.items():
            # In the parameter's memory format: fused Adam walks its tensors as flat memory, and moments in
            # another order of elements than the parameter's would be those of other weights.
            self.ema.shadow[n] = torch.empty_like(p.detach()).copy_(tensors[f"ema.{n}"])
            if f"optimizer.step.{n}" in tensors:
                self.optimizer.state[p] = {
                    # the step counter stays where fused Adam keeps it: beside the parameter
                    "step": tensors[f"optimizer.step.{n}"].to(p.device).clone(),
                    **{
                        key: torch.empty_like(p.detach()).copy_(tensors[f"optimizer.{key}.{n}"])
                        for key in ("exp_avg", "exp_avg_sq")
                    },
                }
        self.done, self.ema.updates = int(facts["step"]), int(facts["ema_updates"])
