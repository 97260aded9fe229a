from dataclasses import replace

import numpy as np
import pytest
import torch

from msdm_kit.conditioners.hv_maps import HVMaps, HVMapsConfig
from msdm_kit.conditioners.label_map import LabelMap, LabelMapConfig
from msdm_kit.conditioners.rgb_statistics import RGBStatistics, RGBStatisticsConfig
from msdm_kit.core import mapped, multistep, solvers, window_conditions
from msdm_kit.core.augment import pad_to_multiple
from msdm_kit.core.conditioning import PluginConfig, Signal
from msdm_kit.core.denoiser import Denoiser, Injection
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.injection import match_sites
from msdm_kit.core.recipe import DiffusionSection, SampleSection
from msdm_kit.core.sampling import Sampler
from msdm_kit.core.window_conditions import WindowConditions, boxes
from msdm_kit.core.window_sampling import draw_windows
from msdm_kit.core.windows import Grid

from ..toy import INJECTORS as TOY
from ..toy import Given, randomise, toy_denoiser, toy_sample, toy_unet

CPU = torch.device("cpu")
MODES = ("hover", "hover_legacy", "boundary", "edt")
SOLVERS = {
    "ddpm": solvers.ddpm,
    "ddim": solvers.ddim,
    "heun": solvers.heun,
    "dpmpp_2m": multistep.dpmpp_2m,
    "unipc": multistep.unipc,
}


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    monkeypatch.setattr(mapped, "BAND", 700)
    monkeypatch.setattr(window_conditions, "_PIXELS", 300)


def conditioned(conditioners, variance="fixed_small"):
    """A toy network with maps through SPADE and, where there are any, vectors through FiLM."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = toy_unet(6 if variance == "learned_range" else 3)
        injections = []
        for kind, injector in (("map", "spade"), ("vector", "film")):
            names = [name for name, c in conditioners.items() if c.spec.kind == kind]
            if names:
                cls, config, _, at = TOY[injector]
                width = sum(conditioners[name].spec.width for name in names)
                spec = replace(conditioners[names[0]].spec, width=width)
                sites = match_sites(at, backbone.sites, cls)
                injections.append(Injection(names, spec, {s.name: cls(config, spec, s) for s in sites}))
        diffusion = DiffusionSection(prediction="v", variance=variance)
        denoiser = Denoiser(backbone, conditioners, injections, diffusion)
    randomise(denoiser)
    return denoiser.eval()


def local():
    return {
        "hv": HVMaps(HVMapsConfig(), {}),
        "edges": LabelMap(LabelMapConfig(), {}),
        "rgb": RGBStatistics(RGBStatisticsConfig(), {}),
    }


class Depth(Given):
    """A map that sees the whole field: the share of rows above a pixel. It does not say how far it looks."""

    def observe(self, sample):
        height, width = sample.size
        column = torch.linspace(0, 1, height)[:, None]
        return {"data": column.expand(self.spec.width, height, width).clone()}


class Count(Given):
    """A vector: the number of nuclei in the field."""

    def observe(self, sample):
        count = float(len(np.unique(sample.masks["nucleus"])) - 1)
        return {"data": torch.full((self.spec.width,), count)}


def field(height=41, width=52, seed=0):
    """A field with an image, and instances that windows cut; sizes are not those that the network needs."""
    rng = np.random.default_rng(seed)
    cells, nuclei = np.zeros((height, width), np.int32), np.zeros((height, width), np.int32)
    y, x = np.mgrid[:height, :width]
    for k, (cy, cx) in enumerate(rng.uniform(0, (height, width), (14, 2)), 1):
        distance = np.hypot(y - cy, x - cx)
        cells[(distance < 8) & (cells == 0)] = 3 * k
        nuclei[(distance < 4) & (cells == 3 * k)] = 3 * k
    image = rng.uniform(-1, 1, (3, height, width)).astype(np.float32)
    return toy_sample(0).__class__("large", {"cell": cells, "nucleus": nuclei}, image, {"assay": "purple"})


def sampler_of(denoiser, solver="unipc", budget=None, **settings):
    settings = SampleSection(**{"steps": 4, "spacing": "trailing", **settings})
    return Sampler(denoiser, settings, SOLVERS[solver], budget=budget)


def windowed(sampler, sample, window=16, overlap=6, **more):
    conditions = WindowConditions(sampler.network, sample, CPU)
    words = {"id": sample.id, "seed": 5, "window": window, "overlap": overlap, **more}
    return draw_windows(sampler, conditions, **words).at(slice(None))


def plain(sampler, sample):
    padded = pad_to_multiple(sample, sampler.network.multiple)
    with torch.no_grad():
        signals = sampler.network.encode(sampler.network.observe([padded]))
    return sampler.draw(signals, ids=[sample.id], size=padded.size, seed=5)


def test_boxes_of_instances():
    labels = np.zeros((60, 10), np.int64)
    labels[1:50, 2:4], labels[58, 9], labels[20:22, 3] = 7, 2**31 - 1, 9
    assert boxes(labels) == {7: (1, 2, 50, 4), 9: (20, 3, 22, 4), 2**31 - 1: (58, 9, 59, 10)}
    assert boxes(np.zeros((3, 3), np.int32)) == {}


@pytest.mark.parametrize("mode", MODES)
def test_windows_show_what_the_whole_field_shows(mode):
    conditioners = {**local(), "hv": HVMaps(HVMapsConfig(mode=mode), {})}
    denoiser, sample = conditioned(conditioners), field()
    conditions = WindowConditions(denoiser, sample, CPU)
    padded = pad_to_multiple(sample, denoiser.multiple)
    assert conditions.size == padded.size == (42, 52)
    whole = denoiser.encode(denoiser.observe([padded]))
    grid = Grid(conditions.size, 12, 3)
    for group in grid.groups(4):
        windows = [grid.windows[k] for k in group]
        signals = conditions.signals(windows)
        assert list(signals) == list(denoiser.names)
        for name, signal in signals.items():
            for row, window in zip(signal.data, windows, strict=True):
                assert torch.equal(row, whole[name].data[0][(..., *window.at)]), name


def test_what_does_not_say_how_far_it_looks_sees_the_whole_field():
    conditioners = {"depth": Depth("map", 2), "count": Count("vector", 3), "hv": local()["hv"]}
    denoiser, sample = conditioned(conditioners), field()
    conditions = WindowConditions(denoiser, sample, CPU)
    grid = Grid(conditions.size, 12, 3)
    signals = conditions.signals(grid.windows[-2:])
    depth = torch.linspace(0, 1, 42)[30:] * conditioners["depth"].weight
    assert torch.equal(signals["depth"].data, depth[None, None, :, None].expand(2, 2, 12, 12))
    nuclei = len(np.unique(sample.masks["nucleus"])) - 1
    assert torch.equal(signals["count"].data, conditioners["count"].weight * float(nuclei) * torch.ones(2, 3))


def test_a_constant_map_of_the_whole_field_stays_one():
    class Flat(Given):
        def encode(self, batch):
            pixel = batch["data"][:, :, None, None] * self.weight
            return Signal(pixel.expand(-1, -1, 42, 52))

    conditions = WindowConditions(conditioned({"flat": Flat("map", 2)}), field(), CPU)
    signal = conditions.signals(Grid((42, 52), 12, 3).windows[:3])["flat"]
    assert signal.constant
    assert signal.data.shape == (3, 2, 12, 12)


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_one_window_is_plain_sampling_bit_for_bit(solver, variance):
    denoiser, sample = conditioned({**local(), "count": Count("vector", 3)}, variance), field(20, 21)
    for settings in ({"steps": 3}, {"guidance": 1.5, "eta": 0.5, "steps": 2}):
        sampler = sampler_of(denoiser, solver, **settings)
        assert torch.equal(windowed(sampler, sample, window=64), plain(sampler, sample))


class Pixelwise(torch.nn.Module):
    """A backbone that acts on each pixel alone."""

    sites = ()
    multiple = 1

    def release(self, sites):
        pass

    def encode(self, x, t, inject):
        from msdm_kit.core.backbone import Features

        return Features(x, (), t.float())

    def decode(self, features, inject):
        out = torch.sin(3 * features.h) * 0.4 + features.h.flip(1) * 0.3
        return torch.cat([out, 0.1 * out], 1)[:, : self.channels]


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_network_that_acts_per_pixel_knows_no_windows(solver, variance):
    backbone = Pixelwise()
    backbone.channels = 6 if variance == "learned_range" else 3
    backbone.weight = torch.nn.Parameter(torch.ones(()))
    denoiser = Denoiser(backbone, {}, [], DiffusionSection(prediction="v", variance=variance)).eval()
    sampler, sample = sampler_of(denoiser, solver), field()
    whole = sampler.draw({}, ids=[sample.id], size=(41, 52), seed=5)
    torch.testing.assert_close(windowed(sampler, sample), whole, rtol=0, atol=1e-5)


def test_the_budget_of_prepared_states_changes_no_bit():
    denoiser, sample = conditioned(local()), field(22, 24)
    images = [
        windowed(sampler_of(denoiser, "ddim", guidance=2.0, budget=budget, steps=2), sample)
        for budget in (None, 0, 200_000)
    ]
    assert all(torch.equal(images[0], image) for image in images[1:])


def test_how_many_windows_are_painted_at_once_does_not_matter():
    """Up to rounding, as with batches of fields."""
    denoiser, sample = conditioned({**local(), "count": Count("vector", 3)}), field(22, 38)
    sampler, counts = sampler_of(denoiser, "ddim", steps=2), []
    one, many = windowed(sampler, sample), windowed(sampler, sample, batch=5, on_windows=counts.append)
    torch.testing.assert_close(one, many, rtol=0, atol=2e-5)
    assert torch.equal(one, windowed(sampler, sample))
    windows = len(Grid((22, 38), 16, 6).windows)
    assert sum(counts) == windows * 2
    assert max(counts) == 5


def test_masks_may_be_in_a_file(tmp_path):
    denoiser, sample = conditioned({"hv": local()["hv"]}), field(16, 24)
    stored = {}
    for kind, labels in sample.masks.items():
        stored[kind] = np.memmap(tmp_path / kind, np.int32, "w+", shape=labels.shape)
        stored[kind][:] = labels
    sampler = sampler_of(denoiser, "ddim", steps=2)
    assert torch.equal(windowed(sampler, replace(sample, masks=stored)), windowed(sampler, sample))


def test_a_solver_that_looks_around_is_named():
    @solvers.solver(steps=2, spacing="linspace")
    def smoothing(model, x, schedule, *, noise, eta=0.0):
        return torch.roll(model(x, 0).x0, 1, 2)

    sampler = Sampler(toy_denoiser(), SampleSection(), smoothing)
    with pytest.raises(MsdmError, match="calls roll, which is not elementwise"):
        windowed(sampler, field())


def test_reach_is_that_of_maps_alone():
    assert HVMaps(HVMapsConfig(), {}).local
    assert not Given("map", 1).local
    vector = Given("vector", 1)
    vector.reach = 0
    assert not vector.local
    assert PluginConfig()
