"""Evaluations of the network until each solver is as near to the exact end of the ODE as DDIM-40.

python -m benchmarks.solvers
python -m benchmarks.solvers --run demo --n 2

Without a run the denoiser is known in closed form: E[x_0 | x_t] of image-like data, a Gaussian or a mixture
of eight, whose power falls with 1/f^2. Everything is diagonal in the basis of cosines, in which it is
computed, in fp64. The exact end is that of 1000 steps of UniPC from the schedule's last step to lambda = 8.
Each cell: to reach DDIM-40 as the papers walk it (leading) / on the best of these spacings; none within 60.
With a run the figures are those of `msdm-kit sample --solver-sweep`.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from msdm_kit.core.diffusion import Denoised, denoise
from msdm_kit.core.recipe import Spacing
from msdm_kit.core.schedule import NoiseSchedule
from msdm_kit.core.solvers import Solver, ddim
from msdm_kit.plugins.host import get_host
from msdm_kit.plugins.solver import load_solver
from msdm_kit.plugins.sweep import sweep

SIDE = 16
SAMPLES = 8
COMPONENTS = 8
DEVIATION = 0.5
"""Of a pixel, on the scale [-1, 1]."""
SHARED = 0.5
"""Share of the mixture's power that lies within its components."""
COUNTS = (*range(2, 21), *range(22, 61, 2))
"""Steps that are tried."""
BASELINE = 40


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians in the basis of cosines, of equal weights and one diagonal covariance.

    Attributes
    ----------
    means : Tensor (M, K)
    variances : Tensor (K,)
    """

    means: Tensor
    variances: Tensor

    @classmethod
    def imagelike(cls, components: int, within: float) -> "Mixture":
        """Power 1 / (1 + f^2), of which the share `within` is inside the components."""
        f = torch.arange(SIDE, dtype=torch.float64)
        power = 1 / (1 + f[:, None] ** 2 + f[None] ** 2)
        variances = (DEVIATION**2 * SIDE**2 / power.sum() * power).flatten()
        g = torch.Generator().manual_seed(0)
        means = torch.randn(components, SIDE**2, generator=g, dtype=torch.float64)
        return cls((1 - within) ** 0.5 * variances.sqrt() * means, within * variances)

    def denoised(self, x: Tensor, abar: Tensor) -> Tensor:
        """E[x_0 | x_t] of x (B, K) at abar."""
        total = abar * self.variances + 1 - abar
        off = x[:, None] - abar.sqrt() * self.means  # (B, M, K)
        weights = torch.softmax(-0.5 * (off**2 / total).sum(-1), dim=1)
        each = self.means + abar.sqrt() * self.variances / total * off
        return (weights[..., None] * each).sum(1)


Denoiser = Callable[[Tensor, Tensor], Tensor]


def problems() -> dict[str, Denoiser]:
    """What is denoised; guidance is between the whole mixture and one of its components."""
    gaussian, mixture = Mixture.imagelike(1, 1.0), Mixture.imagelike(COMPONENTS, SHARED)
    one = Mixture(mixture.means[:1], mixture.variances)

    def guided(x: Tensor, abar: Tensor) -> Tensor:
        return mixture.denoised(x, abar) + 1.5 * (one.denoised(x, abar) - mixture.denoised(x, abar))

    return {"Gaussian": gaussian.denoised, "mixture": mixture.denoised, "mixture, guidance 1.5": guided}


def solve(solver: Solver, denoiser: Denoiser, schedule: NoiseSchedule, x: Tensor) -> Tensor:
    """Where a solver ends on this schedule, from x (B, K)."""
    abar = schedule.alphas_cumprod

    def model(x: Tensor, i: int) -> Denoised:
        index = torch.full((len(x),), i)
        return denoise(schedule, "x0", "fixed_small", denoiser(x, abar[i]), x, index, clip=None)

    def never() -> Tensor:
        raise AssertionError("a deterministic solver draws no noise")

    return solver(model, x, schedule, noise=never)


def fine(schedule: NoiseSchedule, steps: int = 1000, last: float = 8.0) -> NoiseSchedule:
    """Uniform in lambda, from a schedule's last step to lambda = `last`."""
    lam = torch.linspace(last, float(schedule.half_log_snr[-1]), steps, dtype=torch.float64)
    abar = torch.sigmoid(2 * lam)
    previous = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    return NoiseSchedule(1 - abar / previous, torch.arange(steps))


def table(title: str, denoiser: Denoiser, schedule: NoiseSchedule) -> None:
    """Print a row for each solver and a column for each spacing."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, SIDE**2, generator=g, dtype=torch.float64)
    exact = solve(load_solver("unipc"), denoiser, fine(schedule), x)

    def error(solver: Solver, steps: int, spacing: Spacing) -> float:
        out = solve(solver, denoiser, schedule.walk(steps, spacing), x)
        return float((out - exact).norm() / exact.norm())

    spacings: tuple[Spacing, ...] = get_args(Spacing)
    levels = {s: error(ddim, BASELINE, s) for s in spacings}
    papers, best = levels["leading"], min(levels.values())
    each = ", ".join(f"{s} {v:.4f}" for s, v in levels.items())
    print(f"\n{title}; DDIM-{BASELINE}'s error: {each}\n")
    print("| solver |" + "".join(f" {s} |" for s in spacings) + "\n|---|" + "---|" * len(spacings))
    for name in get_host().names("solver"):
        solver = load_solver(name)
        if not solver.deterministic:
            continue
        cells = []
        for spacing in spacings:
            reached: dict[float, int] = {}
            for n in COUNTS:
                if solver.evaluations(n) > COUNTS[-1] or len(reached) == 2:
                    break
                now = error(solver, n, spacing)
                for level in (papers, best):
                    if now <= level * (1 + 1e-9):
                        reached.setdefault(level, solver.evaluations(n))
                if papers == best and reached:
                    break
            cells.append(" / ".join(str(reached.get(level, "none")) for level in (papers, best)))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def of_run(run: str, out: Path, n: int, guidance: float) -> None:
    """Print a row for each solver and spacing that a sweep tries."""
    found = sweep(run, out=out, n=n, guidance=guidance)
    print(f"\n{run}, guidance {guidance:g}; DDIM-{BASELINE}'s error: {found.level:.4f}\n")
    print("| solver | spacing | evaluations |\n|---|---|---|")
    for solver, spacing in dict.fromkeys((p.trial.solver, p.trial.spacing) for p in found.points):
        line = [p for p in found.points if (p.trial.solver, p.trial.spacing) == (solver, spacing)]
        reached = [p.trial.evaluations for p in line if p.error <= found.level]
        most = max(p.trial.evaluations for p in line)
        print(f"| {solver} | {spacing} | {min(reached, default=f'over {most}')} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", help="a trained model, such as demo")
    parser.add_argument("--n", type=int, default=2, help="fields of the run's sweep")
    parser.add_argument("--out", default="sweep", help="folder of the run's sweeps, new or empty")
    parser.add_argument("--guidance", type=float, nargs="*", default=[1.0, 1.5])
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if args.run:
        for guidance in args.guidance:
            of_run(args.run, Path(args.out) / f"guidance-{guidance:g}", args.n, guidance)
        return
    for name in ("cosine", "linear"):
        for title, denoiser in problems().items():
            table(f"{name} schedule, {title}", denoiser, NoiseSchedule.named(name))


if __name__ == "__main__":
    main()
