"""One optimiser step: the public SDM reference's and ours in one process, interleaved, at equal weights.

    python -m benchmarks.training --reference PATH [--config S M] [--batch 2 1] [--precision fp32 bf16]
        [--device cpu] [--repeats 5] [--threads 1]
    python -m benchmarks.training --reference PATH --config S --batch 6 --memory
    python -m benchmarks.training --reference PATH --config XS --batch 2             a self-check

PATH is a checkout of https://github.com/WeilunWang/semantic-diffusion-model. Reference: what its `TrainLoop`
does in a step, by its own parts: forward and backward in fp32 (with --half in its fp16), the loss read back
image by image, a norm per tensor read back, AdamW, EMA; without and with its checkpointing of residual
blocks (its attention is always checkpointed). Ours: `Optimiser.step` with AdamW and EMA. The error is that
of the loss at equal weights, images, noise and time steps.

Memory is the most bytes, at any time of a step, in storages that the step made: activations kept for
backward, temporaries and gradients, counted from the outputs of every operation. Parameters, optimiser state
and averages are there before and do not count. On a GPU it is the most that the allocator gave out, less
what it held before. --memory leaves the times out.
"""

import argparse
import copy
import gc
import statistics
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.loader import Batch
from msdm_kit.core.optimise import Optimiser
from msdm_kit.core.recipe import TrainSection

from .reference import CONFIGS, SEED, Ours, Reference, add_options, guide, set_up
from .timing import head, interleaved, machine, row, speedup

RATE, AVERAGE = 1e-4, 0.9999


class Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes in storages that operations make while it is on, and the most at any time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {s._cdata for s in _storages((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            # what goes in and out, or is a view, was there before
            if storage._cdata not in self._seen and storage._cdata not in known:
                self._seen.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.live)
        return out

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def _storages(tree: Any) -> list[Any]:
    return [t.untyped_storage() for t in tree_leaves(tree) if isinstance(t, Tensor)]


class Theirs:
    """The reference's training step, by the parts of its `TrainLoop`.

    Parameters
    ----------
    reference : Reference
    model : nn.Module
        Trained in place.
    half : bool
        In its fp16, with its loss scale.
    """

    def __init__(self, reference: Reference, model: Any, half: bool) -> None:
        self.model = model.train()
        self.diffusion = reference.diffusion()
        device = next(model.parameters()).device
        self.sampler = reference.module("resample").UniformSampler(self.diffusion)
        self.log, self.update_ema = (
            reference.module("train_util").log_loss_dict,
            reference.module("nn").update_ema,
        )
        if half:
            model.dtype = torch.float16
        self.trainer = reference.module("fp16_util").MixedPrecisionTrainer(model=model, use_fp16=half)
        self.optimiser = torch.optim.AdamW(self.trainer.master_params, lr=RATE, weight_decay=0.0)
        self.average = copy.deepcopy(self.trainer.master_params)
        self.device = device

    def step(self, image: Tensor, y: Tensor, checkpointing: bool) -> None:
        """One step."""
        for module in self.model.modules():
            if hasattr(module, "use_checkpoint"):
                module.use_checkpoint = checkpointing
        self.trainer.zero_grad()
        t, weights = self.sampler.sample(len(image), self.device)
        losses = self.diffusion.training_losses(
            self.model, image.to(self.device), t, {"y": y.to(self.device)}
        )
        loss = (losses["loss"] * weights).mean()
        self.log(self.diffusion, t, {k: v * weights for k, v in losses.items()})
        self.trainer.backward(loss)
        if self.trainer.optimize(self.optimiser):
            self.update_ema(self.average, self.trainer.master_params, rate=AVERAGE)

    @torch.no_grad()
    def loss(self, image: Tensor, y: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Loss per image."""
        words = [x.to(self.device) for x in (image, t)]
        out: Tensor = self.diffusion.training_losses(
            self.model, *words, {"y": y.to(self.device)}, noise.to(self.device)
        )["loss"]
        return out.cpu()


def optimiser(
    reference: Reference, name: str, model: Any, precision: str, args: argparse.Namespace
) -> Optimiser:
    """Ours, with weights of its own, those of the reference."""
    ours = Ours(reference, CONFIGS[name], model, args.device)
    section = TrainSection.model_validate(
        {
            **{"steps": 1000, "optimizer": "adamw", "lr": RATE, "weight_decay": 0.0, "precision": precision},
            **{"ema": {"decay": AVERAGE}, "checkpointing": False},
        }
    )
    ours.denoiser.backbone.checkpointing = False
    return Optimiser(ours.denoiser, section, total=1000, drop={"map": 0.2})


@torch.no_grad()
def our_loss(o: Optimiser, batch: Batch, t: Tensor, noise: Tensor) -> Tensor:
    """Loss per image."""
    absent = {"map": torch.zeros(len(t), dtype=torch.bool, device=o.device)}
    return o.loss_at(batch, t, noise, absent).cpu()


def most_bytes(step: Callable[[], object], device: torch.device) -> float:
    """MiB of a step, the second, when all that outlives a step is there."""
    step()
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return float(torch.cuda.max_memory_allocated(device) - before) / 2**20
    with Storages() as storages:
        step()
    most: float = storages.most / 2**20
    return most


def measure(reference: Reference, name: str, count: int, args: argparse.Namespace) -> None:
    """The rows of a configuration."""
    config, device = CONFIGS[name], torch.device(args.device)
    g = torch.Generator().manual_seed(SEED)
    image = torch.rand(count, 3, config.size, config.size, generator=g) * 2 - 1
    noise, t = torch.randn(image.shape, generator=g), torch.randint(1000, (count,), generator=g)
    y = guide(config).expand(count, -1, -1, -1).contiguous()
    batch = Batch(image, {"map": {"map": y}}, [f"f{i}" for i in range(count)])
    model = reference.unet(config)
    ours = {p: optimiser(reference, name, model, p, args) for p in args.precision}
    theirs = Theirs(reference, model.to(device), False)
    exact = theirs.loss(image, y, t, noise)
    if args.half:
        theirs = Theirs(reference, theirs.model, True)
    kind = "fp16" if args.half else "fp32"
    calls: dict[str, Callable[[], object]] = {
        f"reference, {kind}": partial(theirs.step, image, y, False),
        f"reference, {kind}, checkpointing": partial(theirs.step, image, y, True),
    }
    errors = dict.fromkeys(calls, "-")
    for precision, o in ours.items():
        calls[f"ours, {precision}"] = partial(o.step, [batch])
        lost = (our_loss(o, batch, t, noise) - exact) / exact
        errors[f"ours, {precision}"] = f"{float(lost.abs().max()):.1e}"
    seconds = {} if args.memory else interleaved(calls, args.repeats, device=device)
    mib = {what: most_bytes(call, device) for what, call in calls.items()}
    first = next(iter(calls))
    for what in calls:
        took = (
            ("-", "-")
            if args.memory
            else (f"{statistics.median(seconds[what]):.3f}", f"{speedup(seconds[first], seconds[what]):.2f}")
        )
        row(name, count, what, *took, errors[what], f"{mib[what]:.0f}", f"{mib[what] / mib[first]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, ["S", "M"], repeats=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 1], help="of each configuration")
    parser.add_argument("--memory", action="store_true", help="memory alone, no times")
    parser.add_argument("--half", action="store_true", help="the reference in its own fp16")
    args = parser.parse_args()
    if len(args.batch) != len(args.config):
        parser.error(f"--batch gives {len(args.batch)} numbers for {len(args.config)} configurations")
    reference = set_up(args)
    print(f"{machine(args.device)}\n")
    head(
        "config",
        "batch",
        "what",
        "seconds",
        "times faster",
        "error of the loss",
        "memory, MiB",
        "of reference",
    )
    for name, count in zip(args.config, args.batch, strict=True):
        try:
            measure(reference, name, count, args)
        except MsdmError as error:
            raise SystemExit(f"{name}: {error}") from None


if __name__ == "__main__":
    main()
