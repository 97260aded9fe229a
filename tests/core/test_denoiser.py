import copy

import pytest
import torch

from msdm_kit.core.conditioning import Signal, Spec, at, merge
from msdm_kit.core.denoiser import Denoiser, Injection, to_device
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.injection import match_sites
from msdm_kit.core.recipe import DiffusionSection
from msdm_kit.plugins.injectors.film import Film, FilmConfig

from ..toy import INJECTORS, SIDE, Given, observations, randomise, same, toy_denoiser, toy_unet

ALL = ("spade", "cross", "film", "concat")


def inputs(denoiser, batch=3):
    g = torch.Generator().manual_seed(2)
    x = torch.randn(batch, 3, SIDE, SIDE, generator=g)
    t = torch.linspace(0, 999, batch).long()
    return x, t, denoiser.encode(observations(denoiser, batch))


def test_sites_of_the_toy_unet():
    unet = toy_unet()
    names = [s.name for s in unet.sites]
    assert len(set(names)) == len(names)
    assert {s.region for s in unet.sites} == {
        "embedding", "input", "encoder", "middle", "bottleneck", "decoder", "head",
    }  # fmt: skip
    by = {s.name: s for s in unet.sites}
    assert (by["input"].channels, by["input"].stride) == (8, 1)
    assert (by["embedding"].kind, by["embedding"].channels) == ("embedding", 32)
    assert (by["middle.0.in_norm"].channels, by["middle.0.in_norm"].stride) == (16, 2)
    assert (by["middle.1.residual"].region, by["middle.1.residual"].kind) == ("bottleneck", "residual")


@pytest.mark.parametrize("settings", [{}, {"residual_updown": False}, {"scale_shift": False}, {"blocks": 2}])
def test_every_site_is_called_with_what_it_declares(settings):
    unet = toy_unet(multipliers=(1, 2, 2), **settings)
    by, seen = {s.name: s for s in unet.sites}, []
    unet.release(s.name for s in unet.sites if s.kind == "norm")

    def inject(name, h, scale=None, shift=None):
        site = by[name]
        seen.append(name)
        side = () if site.kind == "embedding" else (32 // site.stride, 32 // site.stride)
        assert h.shape == (2, site.channels, *side)
        for modulation in (scale, shift):
            assert modulation is None or (
                site.kind == "norm" and modulation.shape == (2, site.channels, 1, 1)
            )
        return torch.nn.functional.silu(h) if site.kind == "norm" else h

    features = unet.encode(torch.randn(2, 3, 32, 32), torch.tensor([0, 5]), inject)
    assert all(by[name].sees_encoder for name in seen)
    halfway = len(seen)
    unet.decode(features, inject)
    assert not any(by[name].sees_encoder for name in seen[halfway:])
    assert seen == [s.name for s in unet.sites]


def test_fractional_multipliers_and_oblong_images():
    unet = toy_unet(multipliers=(0.5, 1), head_channels=4)
    features = unet.encode(torch.randn(1, 3, 6, 10), torch.tensor([3]), lambda s, h, a=None, b=None: h)
    assert unet.input_conv.out_channels == 4
    assert unet.decode(features, lambda s, h, a=None, b=None: h).shape == (1, 3, 6, 10)


@pytest.mark.parametrize(
    ("settings", "words"), [({"groups": 3}, "groups 3"), ({"head_channels": 5}, "head_channels 5")]
)
def test_widths_that_do_not_divide(settings, words):
    with pytest.raises(MsdmError, match=words):
        toy_unet(**settings)


def test_head_channels_divide_only_the_widths_with_attention():
    assert toy_unet(multipliers=(0.5, 1), attention_strides=(2,), head_channels=8) is not None
    with pytest.raises(MsdmError, match="width 4 of the attention at stride 1"):
        toy_unet(multipliers=(0.5, 1), attention_strides=(1,), head_channels=8)


def test_a_released_norm_has_no_weights():
    full, denoiser = toy_unet(), toy_denoiser("spade")
    gone = full.state_dict().keys() - denoiser.backbone.state_dict().keys()
    assert gone
    assert all(k.split(".")[0] in ("middle", "decoder") and "norm" in k for k in gone)
    assert len(gone) == 2 * len(denoiser.injections[0].sites)


def test_two_owners_of_a_norm_site():
    unet = toy_unet()
    conditioners = {"a": Given("vector", 4), "b": Given("vector", 4)}
    injections = []
    for name, patterns in (("a", ["decoder"]), ("b", ["decoder.1.*"])):
        spec = conditioners[name].spec
        chosen = match_sites(patterns, unet.sites, Film)
        injections.append(Injection([name], spec, {s.name: Film(FilmConfig(), spec, s) for s in chosen}))
    with pytest.raises(MsdmError, match=r"two injectors claim the norm site 'decoder\.1\.0\.in_norm'"):
        Denoiser(unet, conditioners, injections, DiffusionSection())


def test_several_injections_share_a_site_that_is_no_norm():
    unet = toy_unet()
    conditioners = {"a": Given("vector", 4), "b": Given("vector", 4)}
    (site,) = match_sites(["embedding"], unet.sites, Film)
    injections = [
        Injection([n], Spec("vector", 4), {site.name: Film(FilmConfig(), Spec("vector", 4), site)})
        for n in "ab"
    ]
    denoiser = Denoiser(unet, conditioners, injections, DiffusionSection()).eval()
    randomise(denoiser)
    h = torch.randn(2, site.channels)
    signals = {n: Signal(torch.randn(2, 4)) for n in "ab"}
    out = denoiser.bind(denoiser.prepare(signals))("embedding", h)
    added = [i.at(site.name).linear(signals[n].data) for i, n in zip(injections, "ab", strict=True)]
    torch.testing.assert_close(out, h + added[0] + added[1])


@pytest.mark.parametrize("names", [(), ("spade",), ("cross",), ("film",), ("concat",), ALL])
def test_prepared_states_are_the_live_ones(names):
    denoiser = toy_denoiser(*names)
    x, t, signals = inputs(denoiser)
    with torch.no_grad():
        live = denoiser(x, t, signals)
        states = denoiser.prepare(signals)
        inject = denoiser.bind(states)
        bound = denoiser.backbone.decode(denoiser.backbone.encode(x, t, inject), inject)
    assert torch.equal(live, bound)
    assert set(states) == {site for injection in denoiser.injections for site in injection.sites}
    for entries in states.values():
        for _, state in entries:
            assert state
            assert all(len(v) == 3 for v in state.values())


@pytest.mark.parametrize("names", [("spade",), ("cross",), ("film",), ("concat",)])
def test_every_condition_reaches_the_output(names):
    denoiser = toy_denoiser(*names)
    x, t, signals = inputs(denoiser)
    with torch.no_grad():
        before = denoiser(x, t, signals)
        (name,) = names
        changed = {name: Signal(signals[name].data.roll(1, 0), signals[name].mask)}
        assert not torch.allclose(denoiser(x, t, changed), before)


@pytest.mark.parametrize("names", [("spade",), ("cross",), ("film",), ("concat",), ALL])
def test_one_absent_row_stands_for_all(names):
    denoiser = toy_denoiser(*names)
    x, t, signals = inputs(denoiser)
    with torch.no_grad():
        one = denoiser.present(signals, frozenset())
        assert all(len(s.data) == 1 for s in one.values())
        rows = dict.fromkeys(names, torch.ones(3, dtype=torch.bool))
        full = denoiser.drop(signals, rows)
        assert all(len(s.data) == 3 for s in full.values())
        torch.testing.assert_close(denoiser(x, t, one), denoiser(x, t, full), rtol=1e-5, atol=1e-5)


def test_present_names_the_others_absent():
    denoiser = toy_denoiser(*ALL)
    _, _, signals = inputs(denoiser)
    some = denoiser.present(signals, frozenset({"cross"}))
    assert some["cross"] is signals["cross"]
    for name in ("spade", "film", "concat"):
        expected = denoiser.conditioner(name).null(signals[name])
        assert torch.equal(some[name].data, expected.data)
    assert all(denoiser.present(signals, frozenset(ALL))[n] is signals[n] for n in ALL)


def test_dropped_rows_only():
    denoiser = toy_denoiser("cross", "film")
    x, t, signals = inputs(denoiser)
    absent = torch.tensor([False, True, False])
    dropped = denoiser.drop(signals, {"cross": absent})
    null = denoiser.conditioner("cross").null(signals["cross"])
    assert dropped["film"] is signals["film"]
    assert torch.equal(dropped["cross"].data[~absent], signals["cross"].data[~absent])
    assert torch.equal(dropped["cross"].data[1], null.data[1])
    assert torch.equal(dropped["cross"].mask[1], null.mask[1])
    with torch.no_grad():
        out, before = denoiser(x, t, dropped), denoiser(x, t, signals)
    torch.testing.assert_close(out[~absent], before[~absent])
    assert not torch.allclose(out[1], before[1])


def test_rows_do_not_touch_each_other():
    denoiser = toy_denoiser(*ALL)
    x, t, signals = inputs(denoiser)
    with torch.no_grad():
        out = denoiser(x, t, signals)
        alone = [
            denoiser(x[[i]], t[[i]], {n: at(s, slice(i, i + 1)) for n, s in signals.items()})
            for i in range(3)
        ]
    torch.testing.assert_close(torch.cat(alone), out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "sees"),
    [
        ((), ()),
        (("spade",), ()),
        (("cross",), ()),
        (("film",), ("film",)),
        (("spade", "concat"), ("concat",)),
    ],
)
def test_which_conditions_the_encoder_sees(names, sees):
    denoiser = toy_denoiser(*names)
    assert denoiser.encoder_conditions == set(sees)
    if not names:
        return
    x, t, signals = inputs(denoiser)
    with torch.no_grad():
        features = [
            denoiser.backbone.encode(
                x, t, denoiser.bind(denoiser.prepare(denoiser.present(signals, present)))
            )
            for present in (frozenset(names), frozenset())
        ]
    equal = [torch.equal(a, b) for a, b in zip(*((*f.skips, f.h, f.emb) for f in features), strict=True)]
    assert all(equal) == (not sees)


@pytest.mark.parametrize("names", [("spade", "cross"), ALL])
def test_checkpointing_changes_no_gradient(names):
    denoiser = toy_denoiser(*names, unet={"dropout": 0.3}).train()
    gradients = []
    for on in (False, True):
        torch.manual_seed(0)
        denoiser.backbone.checkpointing = on
        denoiser.zero_grad(set_to_none=True)
        x, t, signals = inputs(denoiser)
        denoiser(x, t, signals).square().mean().backward()
        gradients.append({n: p.grad for n, p in denoiser.named_parameters() if p.grad is not None})
    assert same(*gradients)
    without = denoiser.state_dict().keys() - gradients[0].keys()
    assert without == {f"conditioners.{n}.absent" for n in names}


def test_gradients_reach_the_absent_condition_where_it_is_dropped():
    denoiser = toy_denoiser(*ALL)
    x, t, signals = inputs(denoiser)
    rows = torch.tensor([True, False, True])
    denoiser(x, t, denoiser.drop(signals, dict.fromkeys(ALL, rows))).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in denoiser.conditioners.parameters())


def test_deep_copy():
    denoiser = toy_denoiser(*ALL)
    x, t, signals = inputs(denoiser)
    with torch.no_grad():
        twin, before = copy.deepcopy(denoiser), denoiser(x, t, signals)
        assert same(twin.state_dict(), denoiser.state_dict())
        assert torch.equal(twin(x, t, signals), before)
        randomise(twin, seed=9)
        assert not torch.equal(twin(x, t, signals), before)
        assert torch.equal(denoiser(x, t, signals), before)


def test_output_is_fp32_and_has_the_variance_channels():
    denoiser = toy_denoiser("spade", diffusion=DiffusionSection(variance="learned_range"))
    x, t, signals = inputs(denoiser)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = denoiser(x, t, signals)
    assert (out.dtype, out.shape) == (torch.float32, (3, 6, SIDE, SIDE))


def test_layouts_agree():
    denoiser = toy_denoiser(*ALL)
    x, t, signals = inputs(denoiser)
    with torch.no_grad():
        before = denoiser(x, t, signals)
        denoiser.to(memory_format=torch.channels_last)
        after = denoiser(x.to(memory_format=torch.channels_last), t, signals)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_joined_conditions():
    a, b = Signal(torch.randn(2, 3, 4, 4)), Signal(torch.randn(2, 1, 4, 4))
    injection = Injection(["b", "a"], Spec("map", 4), {})
    assert torch.equal(injection.signal({"a": a, "b": b}).data, torch.cat([b.data, a.data], 1))
    some = Signal(torch.randn(2, 3, 5), torch.tensor([[True, False, False], [True] * 3]))
    every = Signal(torch.randn(2, 2, 5))
    joined = merge([some, every], "tokens")
    assert joined.data.shape == (2, 5, 5)
    assert joined.mask.tolist() == [[True, False, False, True, True], [True] * 5]


def test_absent_rows_where_only_one_side_has_a_mask():
    """Tokens without a mask all count: the other side's mask must not be lost."""
    absent = torch.tensor([True, False])
    every = Signal(torch.ones(2, 3, 5))
    one = Signal(torch.zeros(2, 3, 5), torch.tensor([[True, False, False]] * 2))
    assert every.where(absent, one).mask.tolist() == [[True, False, False], [True] * 3]
    assert one.where(absent, every).mask.tolist() == [[True] * 3, [True, False, False]]
    assert every.where(absent, Signal(torch.zeros(2, 3, 5))).mask is None


def test_match_sites_keeps_the_backbones_order():
    sites = toy_unet().sites
    cls = INJECTORS["spade"][0]
    chosen = [s.name for s in match_sites(["decoder.0.*", "middle"], sites, cls)]
    assert chosen == [s.name for s in sites if s.name in chosen]
    assert chosen[0] == "middle.0.in_norm"
    with pytest.raises(MsdmError, match="no site 'midle' in the backbone: did you mean 'middle'"):
        match_sites(["midle"], sites, cls)
    with pytest.raises(MsdmError, match="'bottleneck' offers residual sites, and this injector takes norm"):
        match_sites(["bottleneck"], sites, cls)


def test_to_device():
    seen = {"a": {"x": torch.ones(2)}, "b": {"y": torch.zeros(1), "z": torch.ones(1)}}
    moved = to_device(seen, torch.device("cpu"))
    assert moved.keys() == seen.keys()
    assert same(moved["b"], seen["b"])
