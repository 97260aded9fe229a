"""Windows that start from an image or keep pixels of one, and that meet what is no number."""

import numpy as np
import pytest
import torch

from msdm_kit.core import mapped
from msdm_kit.core.augment import pad_to_multiple
from msdm_kit.core.denoiser import Denoiser
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.known import Known
from msdm_kit.core.recipe import DiffusionSection
from msdm_kit.core.window_conditions import WindowConditions
from msdm_kit.core.window_sampling import draw_windows
from msdm_kit.core.windows import Grid
from msdm_kit.plugins.autoencoders.haar import Haar, HaarConfig
from msdm_kit.plugins.kept_pixels import known_images

from .test_window_sampling import CPU, SOLVERS, Count, Pixelwise, conditioned, field, local, sampler_of

CHOICES = [
    {"start": "image", "strength": 0.5},
    {"keep": "inside:nucleus"},
    {"start": "image", "strength": 0.4, "keep": "outside:cell", "eta": 0.5, "guidance": 1.5},
]


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    monkeypatch.setattr(mapped, "BAND", 700)


def windowed(sampler, sample, window=16, overlap=6, **more):
    conditions = WindowConditions(sampler.network, sample, CPU)
    known = known_images([sample], sampler.settings, sampler.network.multiple)
    words = {"id": sample.id, "seed": 5, "window": window, "overlap": overlap, "known": known, **more}
    return draw_windows(sampler, conditions, **words).at(slice(None))


def plain(sampler, sample):
    padded = pad_to_multiple(sample, sampler.network.multiple)
    with torch.no_grad():
        signals = sampler.network.encode(sampler.network.observe([padded]))
    known = known_images([sample], sampler.settings, sampler.network.multiple)
    return sampler.draw(signals, ids=[sample.id], size=padded.size, seed=5, known=known)


def pixelwise(autoencoder=None):
    backbone = Pixelwise()
    backbone.channels = 3 if autoencoder is None else autoencoder.channels
    backbone.weight = torch.nn.Parameter(torch.ones(()))
    return Denoiser(backbone, {}, [], DiffusionSection(prediction="v"), autoencoder).eval()


@pytest.mark.parametrize("settings", CHOICES, ids=str)
@pytest.mark.parametrize("solver", SOLVERS)
def test_one_window_is_plain_sampling_bit_for_bit(solver, settings):
    denoiser, sample = conditioned(local()), field(20, 21)
    sampler = sampler_of(denoiser, solver, steps=3, **settings)
    assert torch.equal(windowed(sampler, sample, window=64), plain(sampler, sample))


@pytest.mark.parametrize("settings", CHOICES, ids=str)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_network_that_acts_per_pixel_knows_no_windows(solver, settings):
    sampler, sample = sampler_of(pixelwise(), solver, **{**settings, "guidance": 1.0}), field()
    torch.testing.assert_close(windowed(sampler, sample), plain(sampler, sample), rtol=0, atol=1e-5)


def test_kept_pixels_stay_and_the_others_do_not():
    sample = field()
    sampler = sampler_of(conditioned(local()), "ddim", steps=2, keep="inside:nucleus")
    image = windowed(sampler, sample)[0, :, :41, :52].numpy()
    stay = sample.masks["nucleus"] > 0
    np.testing.assert_array_equal(image[:, stay], sample.image[:, stay])
    assert (image[:, ~stay] != sample.image[:, ~stay]).mean() > 0.9


def test_strength_0_is_the_image():
    sample = field()
    sampler = sampler_of(conditioned(local()), "ddim", start="image", strength=0)
    np.testing.assert_array_equal(windowed(sampler, sample)[0, :, :41, :52], sample.image)


@pytest.mark.parametrize("settings", CHOICES[:2], ids=str)
def test_latents_of_an_image_are_averaged_over_windows(settings):
    """Haar's are those of squares of pixels, which no border of a window cuts."""
    autoencoder = Haar(HaarConfig(levels=1))
    sampler, sample = sampler_of(pixelwise(autoencoder), "ddim", **settings), field(40, 52)
    found, wanted = windowed(sampler, sample, 16, 4), plain(sampler, sample)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    if "keep" in settings:
        stay = torch.from_numpy(sample.masks["nucleus"] > 0)
        assert torch.equal(found[0, :, stay], torch.from_numpy(sample.image)[:, stay])


@pytest.mark.parametrize(
    ("known", "text"),
    [(None, "none is given"), (Known(torch.zeros(1, 3, 16, 16)), "is 16 x 16, and 42 x 52 are painted")],
)
def test_an_image_that_is_missing_or_of_another_size_is_refused(known, text):
    sampler = sampler_of(conditioned(local()), start="image")
    with pytest.raises(MsdmError, match=text):
        windowed(sampler, field(), known=known)


class NotANumber(Pixelwise):
    """Says what is no number of windows in which the first pixel was marked."""

    channels = 3

    def decode(self, features, inject):
        out = super().decode(features, inject)
        return torch.where(features.h[:, :1, :1, :1] > 90, torch.nan, out)


def test_a_window_that_is_no_number_is_named_at_once(monkeypatch):
    backbone = NotANumber()
    backbone.weight = torch.nn.Parameter(torch.ones(()))
    denoiser = Denoiser(backbone, {}, [], DiffusionSection(prediction="v")).eval()
    sampler, painted = sampler_of(denoiser, "ddim"), []
    window = Grid((41, 52), 16, 6).windows[6]
    assert (window.top, window.left) == (10, 10)
    fill = mapped.MappedTensor.fill_normal

    def marked(self, generator):
        fill(self, generator).at(slice(10, 11), slice(10, 11)).fill_(99.0)
        return self

    monkeypatch.setattr(mapped.MappedTensor, "fill_normal", marked)
    with pytest.raises(MsdmError, match="field large, in the window from row 10, column 10 is not finite"):
        windowed(sampler, field(), on_windows=painted.append)
    assert sum(painted) == 6


def test_a_condition_that_is_no_number_is_named():
    class Broken(Count):
        def encode(self, batch):
            return super().encode({"data": batch["data"] * torch.nan})

    sampler = sampler_of(conditioned({"hv": local()["hv"], "count": Broken("vector", 3)}), "ddim")
    with pytest.raises(
        MsdmError, match=r"'count' .*Broken\) encodes numbers .* on field large, in the window"
    ):
        windowed(sampler, field())


def test_an_image_that_is_no_number_at_the_end_is_named():
    sampler = sampler_of(pixelwise(), "ddim")
    sampler.solver = lambda model, x, schedule, *, noise, eta: model(x, 0).x0 * torch.nan
    with pytest.raises(MsdmError, match="field large, in the window from row 0, column 0 is not finite"):
        windowed(sampler, field())
