"""Multistep solvers in lambda, the half log-SNR, with data prediction: one evaluation a step, order 2.

From s to t, with h = lambda_t - lambda_s, the probability-flow ODE has the exact solution (Lu et al. 2022b,
equation 8)

    x_t = sigma_t / sigma_s x_s + sigma_t  int_{lambda_s}^{lambda_t} exp(lambda) x0(lambda) d lambda

Both solvers replace x0(lambda) by a polynomial through what the network said before. The last step goes to
sigma = 0, where lambda has no end: to first order it lands on the last x0.
"""

import math
from collections import deque

import torch
from torch import Tensor

from .schedule import NoiseSchedule
from .solvers import Model, Noise, solver

ORDER = 2
"""Of UniPC's predictor. 3 is nearer to unguided ends, and farther from guided ones at a dozen steps."""


@solver(steps=12, spacing="logsnr")
def dpmpp_2m(model: Model, x: Tensor, schedule: NoiseSchedule, *, noise: Noise, eta: float = 0.0) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2).

    Parameters
    ----------
    model : callable (x, i) -> Denoised
    x : Tensor (B, 3, H, W)
        Standard normal noise.
    schedule : NoiseSchedule
        Walked from its last step to its first.
    noise, eta
        Not used.

    Returns
    -------
    Tensor (B, 3, H, W)
    """
    alpha, sigma, lam = _levels(schedule)
    before = None
    for i in range(len(schedule) - 1, 0, -1):
        x0 = model(x, i).x0
        h = lam[i - 1] - lam[i]
        slope = 0.0 if before is None else h / (lam[i] - lam[i + 1])
        data = x0 if before is None else x0 + 0.5 * slope * (x0 - before)
        x = sigma[i - 1] / sigma[i] * x - alpha[i - 1] * math.expm1(-h) * data
        before = x0
    return model(x, 0).x0


@solver(steps=12, spacing="logsnr")
def unipc(model: Model, x: Tensor, schedule: NoiseSchedule, *, noise: Noise, eta: float = 0.0) -> Tensor:
    """UniPC (Zhao et al. 2023, algorithms 5 and 6, B(h) = exp(h) - 1): predict, evaluate, correct.

    The evaluation at the predicted x serves the correction and the next prediction, so that the corrector
    costs none of its own.

    Parameters
    ----------
    model, x, schedule, noise, eta
        As in `dpmpp_2m`.

    Returns
    -------
    Tensor (B, 3, H, W)
    """
    alpha, sigma, lam = _levels(schedule)
    seen: deque[tuple[float, Tensor]] = deque(maxlen=ORDER)  # lambda and x0, the latest last
    x0 = model(x, len(schedule) - 1).x0
    for i in range(len(schedule) - 1, 0, -1):
        seen.append((lam[i], x0))
        h = lam[i - 1] - lam[i]
        scale = alpha[i - 1] * -math.expm1(-h)
        first_order = sigma[i - 1] / sigma[i] * x + scale * x0
        ratios = [(at - lam[i]) / h for at, _ in list(seen)[:-1]]
        slopes = [(old - x0) / r for r, (_, old) in zip(ratios, seen, strict=False)]
        x = first_order + scale * _sum(_weights(ratios, h), slopes)
        new = model(x, i - 1).x0
        x = first_order + scale * _sum(_weights([*ratios, 1.0], h), [*slopes, new - x0])
        x0 = new
    return x0


def _levels(schedule: NoiseSchedule) -> tuple[list[float], list[float], list[float]]:
    """sqrt(abar), sqrt(1 - abar) and lambda of every step."""
    a = schedule.alphas_cumprod
    return a.sqrt().tolist(), (1 - a).sqrt().tolist(), schedule.half_log_snr.tolist()


def _weights(ratios: list[float], h: float) -> list[float]:
    """UniPC's a of the differences at `ratios`: R a B(h) = g, with data prediction (Zhao et al. 2023)."""
    order = len(ratios)
    if order < 2:
        return [0.5] * order  # which is of order 2 as well, whatever h (there)
    bracket = math.expm1(-h)
    phi, factorial, wanted = bracket / -h - 1, 1, []
    for k in range(1, order + 1):
        wanted.append(phi * factorial / bracket)
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    rows = torch.tensor(ratios, dtype=torch.float64) ** torch.arange(order)[:, None]
    weights: list[float] = torch.linalg.solve(rows, torch.tensor(wanted, dtype=torch.float64)).tolist()
    return weights


def _sum(weights: list[float], parts: list[Tensor]) -> Tensor | float:
    return sum((w * part for w, part in zip(weights, parts, strict=True)), 0.0)
