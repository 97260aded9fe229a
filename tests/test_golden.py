"""Our engine against numbers of the public SDM reference: see tests/golden/README.md."""

from typing import Any

import pytest
import torch
from torch import Tensor

from msdm_kit.backbones.unet import UNet, UNetConfig
from msdm_kit.core.conditioning import Conditioner, Observation, PluginConfig, Signal, Spec
from msdm_kit.core.denoiser import Denoiser, Injection
from msdm_kit.core.diffusion import Denoised, denoise, log_variance, q_sample
from msdm_kit.core.guidance import combine, plan
from msdm_kit.core.injection import match_sites
from msdm_kit.core.losses import training_losses
from msdm_kit.core.recipe import DiffusionSection
from msdm_kit.core.sample import Sample
from msdm_kit.core.schedule import NoiseSchedule, spaced_steps
from msdm_kit.core.solvers import ddim, ddpm
from msdm_kit.plugins.convert_sdm import convert, describe
from msdm_kit.plugins.injectors.spade import Spade, SpadeConfig

RELATIVE = 1e-5
NETWORKS = ("hv4_cosine_ddim40", "guide16_linear_ddim25", "strided_heads8_ddim5")
TRAJECTORIES = [
    ("hv4_cosine_ddim40", "ddim"),
    ("hv4_cosine_x0", "ddim"),
    ("hv4_cosine_x0", "small"),
    ("hv4_cosine_x0", "large"),
    ("guide16_linear_ddim25", "ddim"),
    ("guide16_linear_ddpm20", "ddpm"),
    ("guide16_linear_ddpm20", "eta"),
    ("guide16_linear_ddpm20", "guided"),
    ("strided_heads8_ddim5", "ddim"),
]


class GivenMap(Conditioner):
    """A map that is there already; absent it is zero, as in SDM."""

    def __init__(self, width: int) -> None:
        super().__init__(PluginConfig(), {})
        self.spec = Spec("map", width)

    def observe(self, sample: Sample) -> Observation:
        return {}

    def encode(self, batch: Observation) -> Signal:
        return Signal(batch["map"])

    def null(self, like: Signal) -> Signal:
        return Signal(torch.zeros_like(like.data))


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())


def build(golden: Any) -> Denoiser:
    """The reference's network, converted: its shape is read off the weights alone, but for the heads."""
    shape = describe(golden.state)
    settings = shape.backbone(golden.arguments["unet"]["num_head_channels"])
    assert settings.pop("type") == "unet"
    backbone = UNet(UNetConfig(**settings), shape.out_channels)
    spec = Spec("map", shape.map_channels)
    sites = match_sites(["middle", "decoder"], backbone.sites, Spade)
    spade = {s.name: Spade(SpadeConfig(hidden=shape.hidden), spec, s) for s in sites}
    network = Denoiser(
        backbone,
        {"map": GivenMap(spec.width)},
        [Injection(["map"], spec, spade)],
        diffusion(golden, "ddim"),
    )
    network.load_state_dict(convert(golden.state), strict=True)
    return network.eval()


def argument(golden: Any, name: str, part: str) -> Any:
    value = golden.arguments[name]
    return value[part] if isinstance(value, dict) else value


def diffusion(golden: Any, part: str) -> DiffusionSection:
    words = golden.arguments
    variance = words["variance"]
    if isinstance(variance, dict):
        variance = variance.get(part, "fixed_small")
    return DiffusionSection(
        schedule=words["schedule"], prediction=words.get("prediction", "eps"), variance=variance
    )


def respaced(schedule: NoiseSchedule, respacing: str) -> NoiseSchedule:
    leading = respacing.startswith("ddim")
    n = int(respacing.removeprefix("ddim"))
    return schedule.respace(spaced_steps(len(schedule), n, "leading" if leading else "linspace"))


@pytest.fixture(scope="module")
def network(golden):
    built = {}

    def get(name):
        if name not in built:
            built[name] = build(golden(name))
        return built[name]

    return get


@pytest.mark.parametrize("name", NETWORKS)
def test_forward(golden, network, name):
    g = golden(name)
    with torch.no_grad():
        out = network(name)(g["in.x"], g["in.t"], {"map": Signal(g["in.y"])})
    assert relative(out, g["out.model"]) < RELATIVE


@pytest.mark.parametrize("name", ["hv4_cosine_x0", *NETWORKS])
def test_losses(golden, network, name):
    g, section = golden(name), diffusion(golden(name), "loss")
    x0, noise, t = g["loss.x0"], g["loss.noise"], g["loss.t"]
    schedule = NoiseSchedule.named(section.schedule, section.timesteps)
    x_t = q_sample(schedule, x0, t, noise)
    if "loss.x_t" in g:
        assert relative(x_t, g["loss.x_t"]) < RELATIVE
    with torch.no_grad():
        raw = network(name)(x_t, t, {"map": Signal(g["loss.y"].expand(len(t), -1, -1, -1))})
        losses = training_losses(schedule, section, raw, x0=x0, x_t=x_t, noise=noise, index=t)
    assert (losses.vb is None) == ("loss.vb" not in g)
    for ours, part in ((losses.mse, "mse"), (losses.vb, "vb"), (losses.total, "total")):
        if ours is not None:
            theirs = g[f"loss.{part}"]
            # image by image: the bound at t = T - 1 would hide an error at any other t
            assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < RELATIVE


@pytest.mark.parametrize(("name", "part"), TRAJECTORIES)
def test_trajectory(golden, network, name, part):
    g, net = golden(name), network(name)
    section, eta = diffusion(g, part), g.arguments.get("eta", {}).get(part)
    solver = ddpm if part in ("small", "large", "ddpm", "guided") else ddim
    schedule = respaced(
        NoiseSchedule.named(section.schedule, section.timesteps), argument(g, "respacing", part)
    )
    assert schedule.timesteps.flip(0).tolist() == g[f"{drawn(part)}.timesteps"].tolist()
    model = guided_model(net, {"map": Signal(g["in.y"])}, settings)
    schedule = model.schedule
    assert schedule.timesteps.flip(0).tolist() == g[f"{drawn(part)}.timesteps"].tolist()
    seen = []

    def watched(x: Tensor, i: int) -> Denoised:
        seen.append(x)
        return model(x, i)

    noises = iter(g[f"{drawn(part)}.noises"]) if f"{drawn(part)}.noises" in g else iter(())
    with torch.no_grad():
        final = solver(model, g[f"{drawn(part)}.noise"], schedule, noise=lambda: next(noises), eta=eta or 0.0)
    middle = seen[len(schedule) // 2 + 1]
    for ours, stage in ((seen[1], "first"), (middle, "middle"), (final, "final")):
        assert relative(ours, g[f"{part}.{stage}"]) < RELATIVE, stage


def drawn(part: str) -> str:
    """Both fixed variances were run from one draw of the noise."""
    return "small" if part == "large" else part


@pytest.mark.parametrize("timesteps", [100, 1000])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_betas(golden, name, timesteps):
    theirs = golden("schedules")[f"betas.{name}.{timesteps}"]
    torch.testing.assert_close(NoiseSchedule.named(name, timesteps).betas, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("respacing", ["all", "ddim40", "20"])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_posterior(golden, name, respacing):
    g, prefix = golden("schedules"), f"{name}.{respacing}"
    schedule = NoiseSchedule.named(name)
    keep = torch.arange(len(schedule))
    if respacing == "all":
        keep = g[f"{prefix}.keep"]
    else:
        schedule = respaced(schedule, respacing)
        keep = torch.arange(len(schedule))
    ours = {
        "betas": schedule.betas,
        "alphas_cumprod": schedule.alphas_cumprod,
        "posterior_variance": schedule.posterior_variance,
        "posterior_mean_coef1": schedule.posterior_x0_coefficient,
        "posterior_mean_coef2": schedule.posterior_xt_coefficient,
    }
    for key, values in ours.items():
        torch.testing.assert_close(values[keep], g[f"{prefix}.{key}"], rtol=1e-9, atol=0)
    raw = torch.zeros(len(keep), 1, 1, 1)
    for variance in ("fixed_small", "fixed_large"):
        log = log_variance(schedule, variance, raw, keep).flatten()
        torch.testing.assert_close(log, g[f"{prefix}.{variance}.log_variance"], rtol=1e-6, atol=0)


def test_leading_spacing_is_ddims_wherever_the_reference_has_it(golden):
    g = golden("schedules")
    differ = [
        n
        for n, stride in zip(g["ddim.counts"].tolist(), g["ddim.strides"].tolist(), strict=True)
        if spaced_steps(1000, n, "leading") != list(range(0, 1000, stride))
    ]
    print(differ)


def test_linspace_spacing_is_the_references(golden):
    g = golden("schedules")
    plain = {k.removeprefix("steps."): v.tolist() for k, v in g.tensors.items() if k.startswith("steps.")}
    differ = {
        k
        for k, v in plain.items()
        if not k.startswith("ddim") and spaced_steps(1000, int(k), "linspace") != v
    }
    assert not differ, differ
