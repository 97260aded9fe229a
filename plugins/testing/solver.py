"""What every solver owes the engine: it samples a distribution of which the denoiser is known."""

import torch
from torch import Tensor

from ...core.diffusion import Denoised, denoise
from ...core.recipe import SampleSection
from ...core.schedule import NoiseSchedule
from ...core.solvers import Model, Solver
from .case import Conformance

MEAN, STD = 0.3, 0.4
TIMESTEPS = 1000


class SolverConformance(Conformance):
    """The checks of a solver, at its own steps and spacing, on pixels that are N(0.3, 0.4^2).

    Attributes
    ----------
    tolerance : float
        On the mean and the standard deviation of what it samples; 0.05 holds for every consistent solver.
    """

    kind = "solver"
    tolerance: float = 0.05

    def walk(self, solver: Solver) -> NoiseSchedule:
        settings = solver.settle(SampleSection(), TIMESTEPS)
        assert settings.steps is not None
        assert settings.spacing is not None
        return NoiseSchedule.cosine(TIMESTEPS).walk(settings.steps, settings.spacing)

    def sample(
        self, solver: Solver, seed: int = 0, count: int = 1024, eta: float = 0.0
    ) -> tuple[Tensor, int]:
        """What it makes of `count` draws of noise, and how often it drew noise on the way."""
        schedule, g, draws = self.walk(solver), torch.Generator().manual_seed(seed), []

        def noise() -> Tensor:
            return torch.randn(count, 3, 1, 1, generator=g, dtype=torch.float64)

        def later() -> Tensor:
            draws.append(1)
            return noise()

        return solver(gaussian(schedule), noise(), schedule, noise=later, eta=eta), len(draws)

    def test_is_a_solver(self) -> None:
        solver = self.load()
        self.check(isinstance(solver, Solver), "is no Solver; decorate it with msdm_kit.core.solvers.solver")
        self.check((solver.__doc__ or "").strip(), "has no docstring")

    def test_samples_the_distribution(self) -> None:
        out, _ = self.sample(self.load())
        self.check(out.isfinite().all(), "its samples are not finite")
        for name, found, wanted in (("mean", out.mean(), MEAN), ("deviation", out.std(), STD)):
            off = abs(float(found) - wanted)
            self.check(off < self.tolerance, f"pixels have the {name} {float(found):.3f}, and not {wanted}")

    def test_the_same_noise_gives_the_same_sample(self) -> None:
        (a, draws), (b, _) = (self.sample(self.load(), count=8) for _ in range(2))
        self.check(torch.equal(a, b), "the same noise gives another sample; draw from noise() alone")
        c, _ = self.sample(self.load(), seed=1, count=8)
        self.check(not torch.equal(a, c), "other noise gives the same sample")
        if self.load().deterministic:
            self.check(draws == 0, "it draws noise at eta 0; declare deterministic=False")

    def test_rows_do_not_touch_each_other(self) -> None:
        solver, schedule = self.load(), self.walk(self.load())
        g = torch.Generator().manual_seed(0)
        x = torch.randn(3, 3, 2, 2, generator=g, dtype=torch.float64)
        out = solver(gaussian(schedule), x, schedule, noise=lambda: torch.zeros_like(x), eta=0.0)
        for i in range(3):
            row = x[[i]]
            alone = solver(
                gaussian(schedule), row, schedule, noise=lambda row=row: torch.zeros_like(row), eta=0.0
            )
            self.close(alone[0], out[i], "a row changes with the others of its batch")

    def test_evaluates_as_often_as_it_says(self) -> None:
        solver, schedule, seen = self.load(), self.walk(self.load()), list[int]()
        model = gaussian(schedule)

        def watched(x: Tensor, i: int) -> Denoised:
            seen.append(i)
            return model(x, i)

        x = torch.ones(1, 3, 2, 2, dtype=torch.float64)
        before = x.clone()
        out = solver(watched, x, schedule, noise=lambda: torch.zeros_like(x), eta=0.0)
        self.check(torch.equal(x, before), "it changes x in place")
        self.check((out.shape, out.dtype) == (x.shape, x.dtype), f"x {x.dtype} became {out.dtype}")
        self.check(all(0 <= i < len(schedule) for i in seen), "it asks for steps outside the schedule")
        promised = solver.evaluations(len(schedule))
        self.check(
            len(seen) == promised, f"it evaluates {len(seen)} times, and `evaluations` says {promised}"
        )

    def test_one_step_is_legal(self) -> None:
        solver = self.load()
        schedule = NoiseSchedule.cosine(TIMESTEPS).walk(1, "trailing")
        x = torch.ones(1, 3, 2, 2, dtype=torch.float64)
        out = solver(gaussian(schedule), x, schedule, noise=lambda: torch.zeros_like(x), eta=0.0)
        self.check(out.isfinite().all(), "one step gives values that are not finite")


def gaussian(schedule: NoiseSchedule) -> Model:
    """The exact denoiser of pixels that are N(MEAN, STD^2)."""

    def model(x: Tensor, i: int) -> Denoised:
        abar = float(schedule.alphas_cumprod[i])
        x0 = MEAN + abar**0.5 * STD**2 / (abar * STD**2 + 1 - abar) * (x - abar**0.5 * MEAN)
        return denoise(schedule, "x0", "fixed_small", x0, x, torch.full((len(x),), i), clip=None)

    return model
