"""Diffusion in latents: closed forms of training and sampling, and what enters behind an autoencoder."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from msdm_kit.conditioners.hv_maps import HVMaps, HVMapsConfig
from msdm_kit.core.autoencoder import Autoencoder, Pixels, to_images, to_latents
from msdm_kit.core.conditioning import PluginConfig, Signal
from msdm_kit.core.denoiser import Denoiser, Injection
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.injection import match_sites
from msdm_kit.core.known import Known
from msdm_kit.core.losses import gaussian_nll, variational_bound
from msdm_kit.core.multistep import unipc
from msdm_kit.core.optimise import Optimiser
from msdm_kit.core.recipe import DiffusionSection, SampleSection, TrainSection
from msdm_kit.core.sampling import SampleNoise, Sampler
from msdm_kit.core.solvers import ddim, ddpm, solver
from msdm_kit.core.window_conditions import WindowConditions
from msdm_kit.core.window_sampling import draw_windows
from msdm_kit.plugins.autoencoders.haar import Haar, HaarConfig

from ..toy import INJECTORS, SIDE, toy_batch, toy_denoiser, toy_sample, toy_unet

CPU = torch.device("cpu")


def latent_denoiser(prediction="eps", variance="fixed_small", levels=1, says=0.0, autoencoder=None):
    """A network in the latents of Haar, with HV maps by SPADE, that says one number everywhere."""
    autoencoder = autoencoder or Haar(HaarConfig(levels=levels))
    channels, stride = autoencoder.channels, autoencoder.stride
    hv = HVMaps(HVMapsConfig(), {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = toy_unet((2 if variance == "learned_range" else 1) * channels, channels)
        cls, config, _, at = INJECTORS["spade"]
        sites = [replace(s, stride=s.stride * stride) for s in match_sites(at, backbone.sites, cls)]
        injection = Injection(["hv"], hv.spec, {s.name: cls(config, hv.spec, s) for s in sites})
    torch.nn.init.constant_(backbone.head_conv.bias, says)  # its weight is zero
    diffusion = DiffusionSection(prediction=prediction, variance=variance, timesteps=100)
    return Denoiser(backbone, {"hv": hv}, [injection], diffusion, autoencoder).eval()


def batch_of(denoiser, n=3):
    samples = [toy_sample(i) for i in range(n)]
    made = toy_batch(denoiser, 0)
    image = torch.stack([torch.from_numpy(s.image) for s in samples])
    return replace(made, image=image, observations=denoiser.observe(samples), ids=[s.id for s in samples])


def loss_at(denoiser, index, noise):
    section = TrainSection(steps=1, precision="fp32")
    optimiser = Optimiser(denoiser, section, total=1, drop={})
    return optimiser.loss_at(batch_of(denoiser), index, noise, {}).detach()


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_the_loss_of_a_constant_is_its_closed_form(prediction, levels):
    denoiser = latent_denoiser(prediction, levels=levels, says=0.25)
    own = denoiser.autoencoder
    x0 = own.encode(batch_of(denoiser).image)
    assert x0.shape == (3, 3 * 4**levels, SIDE // 2**levels, SIDE // 2**levels)
    index, noise = (
        torch.tensor([0, 40, 99]),
        torch.randn(x0.shape, generator=torch.Generator().manual_seed(2)),
    )
    a = denoiser.schedule.alphas_cumprod[index].float().view(3, 1, 1, 1)
    wanted = {"eps": noise, "x0": x0, "v": a.sqrt() * noise - (1 - a).sqrt() * x0}[prediction]
    expected = (wanted - 0.25).square().mean((1, 2, 3))
    torch.testing.assert_close(loss_at(denoiser, index, noise), expected)


def test_a_learned_variance_has_the_density_of_a_gaussian_at_the_first_step():
    """Latents have no 256 levels: their likelihood is a density, and may be above 1."""
    torch.testing.assert_close(
        gaussian_nll(torch.ones(1), torch.zeros(1), torch.zeros(1)), torch.tensor([1.4189385])
    )
    denoiser = latent_denoiser(variance="learned_range")
    x0 = denoiser.autoencoder.encode(batch_of(denoiser).image)
    g, index = torch.Generator().manual_seed(2), torch.tensor([0, 0, 50])
    noise = torch.randn(x0.shape, generator=g)
    a = denoiser.schedule.alphas_cumprod[index].float().view(3, 1, 1, 1)
    x_t = a.sqrt() * x0 + (1 - a).sqrt() * noise
    raw = torch.zeros(3, 2 * x0.shape[1], *x0.shape[2:])
    bounds = [
        variational_bound(denoiser.schedule, denoiser.diffusion, raw, x0, x_t, index, quantised=q)
        for q in (False, True)
    ]
    # eps = 0 is x_0 = x_t / sqrt(a), the mean of the last step; half way from log beta~ to log beta
    b, small = denoiser.schedule.betas[0], denoiser.schedule.posterior_log_variance[0]
    logvar = float(0.5 * (b.log() + small))
    error = (x0 - x_t / a.sqrt())[:2].double().square().mean((1, 2, 3))
    expected = 0.5 * (math.log(2 * math.pi) + logvar + error * math.exp(-logvar)) / math.log(2)
    torch.testing.assert_close(bounds[0][:2].double(), expected, rtol=1e-4, atol=0)
    assert bounds[0][2] == bounds[1][2]
    assert not torch.allclose(bounds[0][:2], bounds[1][:2])
    loss = loss_at(denoiser, index, noise)
    torch.testing.assert_close(loss, noise.square().mean((1, 2, 3)) + bounds[0], rtol=1e-4, atol=1e-4)


def test_without_an_autoencoder_nothing_is_touched():
    pixels, image = (
        Pixels(),
        toy_batch(toy_denoiser("spade"), 2).image.contiguous(memory_format=torch.channels_last),
    )
    assert to_latents(pixels, image) is image
    assert to_images(pixels, image) is image
    assert pixels.shape(image.shape) == tuple(image.shape)
    denoiser = toy_denoiser("spade")
    assert denoiser.multiple == denoiser.backbone.multiple
    assert isinstance(denoiser.autoencoder, Pixels)


def test_the_autoencoder_is_no_part_of_the_weights_and_goes_along():
    class Learned(Haar):
        def __init__(self):
            super().__init__(HaarConfig(levels=1))
            self.weight = torch.nn.Parameter(torch.ones(2))

    own = Learned()
    denoiser = latent_denoiser(autoencoder=own)
    names = [*denoiser.state_dict(), *dict(denoiser.named_parameters())]
    assert not any("autoencoder" in name or "_held" in name for name in names)
    assert not own.weight.requires_grad
    assert not own.training
    denoiser.train()
    assert not own.training
    denoiser.to(torch.float64)
    assert own.weight.dtype == torch.float64
    assert denoiser.multiple == 2 * denoiser.backbone.multiple


def draw(denoiser, ids, known=None, solver=unipc, **settings):
    samples = [replace(toy_sample(int(i)), id=i) for i in ids]
    with torch.no_grad():
        signals = denoiser.encode(denoiser.observe(samples))
    sampler = Sampler(denoiser, SampleSection(**{"steps": 4, **settings}), solver)
    return sampler.draw(signals, ids=ids, size=(SIDE, SIDE), seed=3, known=known)


@pytest.mark.parametrize("walk", [ddim, ddpm, unipc])
def test_a_network_that_knows_the_latent_paints_its_image(walk):
    denoiser = latent_denoiser("x0", says=0.5)
    image = denoiser.autoencoder.decode(torch.full((1, 12, 8, 8), 0.5))
    torch.testing.assert_close(draw(denoiser, ["1"], solver=walk), image.clamp(-1, 1), rtol=0, atol=1e-4)


def test_images_are_clipped_and_latents_where_the_image_is():
    denoiser = latent_denoiser("x0", says=2.0)
    image = denoiser.autoencoder.decode(torch.full((1, 12, 8, 8), 2.0))
    assert image.abs().max() > 1
    assert not torch.equal(image.clamp(-1, 1), torch.full((12,), 2.0).clamp(-1, 1)[0].expand_as(image))
    for clip in (True, False):
        torch.testing.assert_close(draw(denoiser, ["1"], clip=clip), image.clamp(-1, 1), rtol=0, atol=1e-4)


def test_noise_is_that_of_the_id_in_the_shape_of_the_latent():
    denoiser = latent_denoiser(says=0.0)
    both, alone = draw(denoiser, ["1", "2"]), draw(denoiser, ["2"])
    assert torch.equal(both[1:], alone)
    assert not torch.equal(both[0], both[1])

    @solver(steps=1, spacing="trailing")
    def noise_itself(model, x, schedule, *, noise, eta):
        return 0.1 * x

    noise = SampleNoise(3, ["2"], (12, 8, 8), CPU)()
    assert torch.equal(draw(denoiser, ["2"], solver=noise_itself), denoiser.autoencoder.decode(0.1 * noise))


@pytest.mark.parametrize("walk", [ddim, ddpm, unipc])
def test_known_pixels_stay_exactly_and_guide_the_latent(walk):
    """An L-shaped region, whose border lies inside of squares: those are painted, and pasted afterwards."""
    denoiser = latent_denoiser("x0", levels=2, says=0.5)
    image = torch.from_numpy(toy_sample(0).image)[None]
    keep = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    keep[..., :7, :], keep[..., :3] = True, True
    known = Known(image, keep)
    inner = known.encoded(denoiser.autoencoder)
    assert inner.keep.tolist() == [[[[True] * 4] + [[False] * 4] * 3]]
    out = draw(denoiser, ["0"], known=known, solver=walk, keep="inside:nucleus")
    assert torch.equal(out[keep.expand_as(out)], image[keep.expand_as(out)])
    painted = denoiser.autoencoder.decode(torch.full((1, 48, 4, 4), 0.5)).clamp(-1, 1)
    free = ~keep.expand_as(out)
    torch.testing.assert_close(out[free], painted[free], rtol=0, atol=1e-4)


def test_a_start_from_an_image_is_in_latents():
    denoiser = latent_denoiser("eps", says=0.0)
    image = torch.from_numpy(toy_sample(0).image)[None]
    words = {"start": "image", "solver": ddim, "known": Known(image), "clip": False}
    assert torch.equal(draw(denoiser, ["0"], strength=0, **words), image)
    near = draw(denoiser, ["0"], strength=0.02, steps=2, **words)
    assert 0 < (near - image).abs().mean() < 0.1


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_map_reaches_a_latent_site_as_the_pixels_at_its_places(stride):
    """SPADE: the top left pixel of each square, by nearest neighbour; concatenation: all of them."""
    sample = toy_sample(0, 32)
    signal = HVMaps(HVMapsConfig(), {}).encode(
        {"map": HVMaps(HVMapsConfig(), {}).observe(sample)["map"][None]}
    )
    backbone = toy_unet()
    for name, at in (("spade", "decoder"), ("concat", "input")):
        cls, config, _, _ = INJECTORS[name]
        site = replace(match_sites([at], backbone.sites, cls)[-1], stride=stride)
        injector = cls(config, HVMaps(HVMapsConfig(), {}).spec, site)
        state = injector.prepare(signal)
        if name == "spade":
            picked = signal.data[:, :, ::stride, ::stride]
            expected = injector.gamma_beta(F.relu(injector.shared(picked)))
            assert torch.equal(state["gamma_beta"], expected)
        else:
            assert state["added"].shape[2:] == (32 // stride, 32 // stride)
            # a pixel that changes is seen, wherever in its square it lies
            for y, x in ((5, 5), (6, 7), (31, 31)):
                other = signal.data.clone()
                other[0, 0, y, x] += 1
                changed = (injector.prepare(Signal(other))["added"] != state["added"]).any(1)[0]
                assert changed[y // stride, x // stride]


def test_windows_in_latents():
    """One window is the whole, bit for bit; several average what each says, and blend what they decode."""
    for levels in (1, 2):
        denoiser = latent_denoiser("x0", levels=levels, says=0.5)
        sample = toy_sample(0, 40)
        sampler = Sampler(denoiser, SampleSection(steps=3), unipc)
        with torch.no_grad():
            signals = denoiser.encode(denoiser.observe([sample]))
        whole = sampler.draw(signals, ids=["w"], size=(40, 40), seed=1)
        for window, overlap in ((40, 8), (16, 8), (24, 0)):
            conditions = WindowConditions(denoiser, sample, CPU)
            words = {"id": "w", "seed": 1, "window": window, "overlap": overlap}
            drawn = draw_windows(sampler, conditions, **words).at(slice(None))
            assert drawn.shape == whole.shape
            torch.testing.assert_close(drawn, whole, rtol=0, atol=0 if window == 40 else 1e-5)


class Bad(Autoencoder):
    """One that breaks its promise in a way."""

    channels, stride = 12, 2

    def __init__(self, how):
        super().__init__(PluginConfig())
        self.how = how

    def encode(self, image):
        if self.how == "raises":
            raise KeyError("scale")
        z = F.pixel_unshuffle(image, 2)
        return {"shape": z[:, :4], "nan": z * float("nan"), "list": [z], "device": z.to("meta")}.get(
            self.how, z
        )

    def decode(self, latent):
        return latent


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raises", "encode fails: KeyError: 'scale'; mend or update its plugin"),
        (
            "shape",
            r"encode makes \(3, 4, 8, 8\) on cpu of \(3, 3, 16, 16\) on cpu, and it is to be \(3, 12, 8, 8\)",
        ),
        ("list", "encode makes list of"),
        ("device", r"encode makes \(3, 12, 8, 8\) on meta"),
        (
            "nan",
            r"step 1: autoencoder \(.*Bad\) encodes numbers that are not finite, on fields f00, f01, f02",
        ),
    ],
)
def test_a_hostile_autoencoder_is_named_and_the_weights_stay(how, reason):
    denoiser = latent_denoiser(autoencoder=Bad(how))
    optimiser = Optimiser(denoiser, TrainSection(steps=1, precision="fp32"), total=1, drop={})
    before = {k: v.clone() for k, v in denoiser.state_dict().items()}
    with pytest.raises(MsdmError, match=reason):
        optimiser.step([batch_of(denoiser)])
    assert all(torch.equal(v, before[k]) for k, v in denoiser.state_dict().items())


def test_a_decoder_of_another_size_is_named():
    with pytest.raises(MsdmError, match=r"autoencoder \(.*Bad\): decode makes \(1, 12, 8, 8\)"):
        draw(latent_denoiser(autoencoder=Bad("")), ["1"])
