"""Painting without memory: what it would hold, found on the meta device."""

from collections.abc import Sequence

import torch

from ..core.denoiser import Denoiser, States, nbytes
from ..core.kernels.convolutions import probe
from ..core.precision import native_bf16
from ..core.recipe import SampleSection
from ..core.sampling import Sampler
from .meta_modes import Autocast, Live, meta_signal, weights_of
from .solver import load_solver

STEPS = 3
"""Solver steps that are walked: one with each length of history that a solver looks back on."""


def painting_bytes(
    denoiser: Denoiser,
    settings: SampleSection,
    *,
    size: tuple[int, int],
    batch: int,
    device: torch.device,
    budget: int | None,
    groups: int = 1,
) -> int | None:
    """Most bytes that painting a batch of fields holds beside the weights.

    The sampler itself walks, with its cast and transformed weights, prepared conditions, branches of guidance
    and solver; the storages that are alive are summed.

    Parameters
    ----------
    denoiser : Denoiser
        From `meta_denoiser`.
    settings : SampleSection
        Settled, as `Pipeline.settings` gives them.
    size : (int, int)
        Of a field, or of a window.
    batch : int
        Fields or windows at once.
    device : torch.device
        Where it would paint.
    budget : int or None
        Of prepared conditions, as `Sampler` takes it.
    groups : int
        Of windows: what is prepared of each is kept within the budget.

    Returns
    -------
    int or None
        None where a plugin does not run on the meta device.
    """
    denoiser.eval()
    live = Live(weights_of(denoiser))
    try:
        kept = _paint(denoiser, settings, size, batch, device, budget, live)
    except Exception:  # a third party's plugin need not run on the meta device
        return None
    more = (groups - 1) * kept
    return live.peak + (more if budget is None else max(0, min(more, budget - kept)))


def _paint(
    denoiser: Denoiser,
    settings: SampleSection,
    size: tuple[int, int],
    batch: int,
    device: torch.device,
    budget: int | None,
    live: Live,
) -> int:
    """Walk a few steps under `live`; the bytes of what is prepared of the batch."""
    multiple = denoiser.multiple
    height, width = (side + -side % multiple for side in size)
    solver = load_solver(settings.solver)
    steps, _ = solver.settle(settings, len(denoiser.schedule)).walk
    few = settings.model_copy(update={"steps": min(steps, STEPS), "start": "noise", "keep": "nothing"})
    bf16 = few.precision == "bf16" and native_bf16(device)
    probe()
    with torch.inference_mode(), Autocast(bf16), live:
        sampler = Sampler(denoiser, few, solver, budget=budget, device=device)
        signals = {
            name: meta_signal(denoiser.conditioner(name), batch, (height, width)) for name in denoiser.names
        }
        ids = [str(k) for k in range(batch)]
        sampler.draw(signals, ids=ids, size=(height, width), seed=0)
        return _bytes(sampler.prepare(signals, budget))


def _bytes(states: Sequence[States]) -> int:
    return sum(nbytes(of_branch) for of_branch in states)
