"""A training pass without memory: on the meta device, where tensors have shapes and no numbers."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..core.autoencoder import to_latents
from ..core.conditioning import Conditioner
from ..core.denoiser import Denoiser
from ..core.errors import MsdmError
from ..core.recipe import Recipe
from ..core.schedule import NoiseSchedule
from .build import build_conditioners, build_denoiser
from .meta_modes import Autocast, Live, meta_signal, weights_of


def meta_denoiser(
    recipe: Recipe,
    *,
    rows: Sequence[Mapping[str, str]] | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> Denoiser:
    """The network of a recipe without memory for its weights.

    Parameters
    ----------
    recipe : Recipe
    rows, facts
        Exactly one is given, as to `build_conditioners`.

    Returns
    -------
    Denoiser
        On the meta device.

    Raises
    ------
    MsdmError
        As `build_conditioners` and `build_denoiser`.
    """
    conditioners: dict[str, Conditioner]
    try:
        with torch.device("meta"):
            conditioners = build_conditioners(recipe, rows=rows, facts=facts)
    except MsdmError:
        raise
    except Exception:
        # A conditioner may compute with its weights when it is made.
        conditioners = build_conditioners(recipe, rows=rows, facts=facts)
    with torch.device("meta"):
        made = build_denoiser(recipe, conditioners, pretrained=False).to("meta")
    made.schedule = NoiseSchedule.named(recipe.diffusion.schedule, recipe.diffusion.timesteps)
    return made


def step_bytes(denoiser: Denoiser, recipe: Recipe, *, bf16: bool, checkpointing: bool) -> int | None:
    """Most bytes of gradients and activations that the forward and backward passes of a step hold.

    The storages that are alive are summed: gradients come as activations go, recomputation under
    checkpointing counts as it happens, attention as a fused kernel, bf16 as autocast casts.

    Parameters
    ----------
    denoiser : Denoiser
        From `meta_denoiser`.
    recipe : Recipe
    bf16 : bool
        Whether autocast is on; otherwise fp32.
    checkpointing : bool
        Whether activations are recomputed in the backward pass.

    Returns
    -------
    int or None
        None where a plugin does not run on the meta device.
    """
    live = Live(weights_of(denoiser))
    return int(live.peak) if _passes(denoiser, recipe, live, bf16, checkpointing) else None


def model_flops(denoiser: Denoiser, recipe: Recipe) -> int | None:
    """Floating-point operations of one forward and backward pass of a batch of crops.

    Those of matrix products, convolutions and attention, two per multiplication; what checkpointing computes
    anew does not count.

    Returns
    -------
    int or None
        None where a plugin does not run on the meta device.
    """
    counter = FlopCounterMode(display=False)
    return int(counter.get_total_flops()) if _passes(denoiser, recipe, counter, False, False) else None


def _passes(
    denoiser: Denoiser, recipe: Recipe, mode: AbstractContextManager[Any], bf16: bool, checkpointing: bool
) -> bool:
    """Run a pass under `mode`; whether it could be run."""
    before = denoiser.backbone.checkpointing
    denoiser.backbone.checkpointing = checkpointing
    try:
        _run(denoiser, recipe, mode, bf16)
    except Exception:  # a third party's plugin need not run on the meta device
        return False
    finally:
        denoiser.backbone.checkpointing = before
        denoiser.zero_grad(set_to_none=True)
    return True


def _run(denoiser: Denoiser, recipe: Recipe, mode: AbstractContextManager[Any], bf16: bool) -> None:
    batch, crop = recipe.train.batch, recipe.data.crop
    with torch.device("meta"):
        image, t = torch.empty(batch, 3, crop, crop), torch.empty(batch, dtype=torch.int64)
        image = image.contiguous(memory_format=torch.channels_last)
        signals = {n: meta_signal(denoiser.conditioner(n), batch, (crop, crop)) for n in denoiser.names}
    denoiser.train()
    with ExitStack() as modes:
        modes.enter_context(mode)
        x = to_latents(denoiser.autoencoder, image)  # in full precision, whatever the training is in
        modes.enter_context(Autocast(bf16))
        # of several passes the second finds all gradients there
        if recipe.train.accumulate > 1:
            for p in denoiser.parameters():
                p.grad = torch.empty_like(p) if p.requires_grad else None
        loss = denoiser(x, t, signals).square().mean()
        # Not loss.backward(): it turns the modes off, and recomputation would run without them.
        torch.autograd.Variable._execution_engine.run_backward(
            (loss,), (torch.ones_like(loss),), False, False, (), True, True
        )
        del loss
