"""What every registered conditioner owes the engine, whoever wrote it; and what all plugins do."""

import copy
import inspect
import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from msdm_kit.core.conditioning import Conditioner, Signal
from msdm_kit.core.injection import Injector
from msdm_kit.core.loader import TrainingStream
from msdm_kit.core.recipe import DataSection
from msdm_kit.core.sample import FACETS
from msdm_kit.plugins.host import get_host

from ..toy import SIDE, config, same, toy_sample

HOST = get_host()
SAMPLES = [toy_sample(i) for i in range(3)]
ROWS = [dict(s.metadata) for s in SAMPLES]
CONDITIONERS = HOST.names("conditioner")


@pytest.fixture(scope="module")
def conditioners() -> dict[str, Conditioner]:
    built = {}
    for name in CONDITIONERS:
        cls = HOST.load("conditioner", name)
        settings = config(cls, name)
        built[name] = cls(settings, cls.fit(settings, ROWS))
        built[name].eval()
    return built


def observe(conditioner: Conditioner, samples: Any = SAMPLES) -> dict[str, Tensor]:
    return conditioner.collate([conditioner.observe(s) for s in samples])


def rows_of(signal: Signal) -> list[Tensor]:
    """Row by row what counts: tokens without their padding."""
    if signal.mask is None:
        return list(signal.data)
    return [d[m] for d, m in zip(signal.data, signal.mask, strict=True)]


class TestConditioner:
    @pytest.fixture(params=CONDITIONERS)
    def conditioner(self, request: Any, conditioners: dict[str, Conditioner]) -> Conditioner:
        return conditioners[request.param]

    def test_declares_what_it_is(self, conditioner):
        assert isinstance(conditioner, Conditioner)
        assert conditioner.reads
        assert conditioner.reads <= set(FACETS)
        assert conditioner.spec.kind in ("map", "tokens", "vector")

    def test_shapes_are_those_of_the_spec(self, conditioner):
        signal, spec = conditioner.encode(observe(conditioner)), conditioner.spec
        assert signal.data.is_floating_point()
        assert signal.data.isfinite().all()
        if spec.kind == "map":
            assert signal.data.shape == (3, spec.width, SIDE, SIDE)
        elif spec.kind == "vector":
            assert signal.data.shape == (3, spec.width)
        else:
            assert (signal.data.ndim, signal.data.shape[0], signal.data.shape[2]) == (3, 3, spec.width)
        if signal.mask is not None:
            assert spec.kind == "tokens"
            assert signal.mask.shape == signal.data.shape[:2]
            assert signal.mask.dtype == torch.bool
            assert signal.mask.any(dim=1).all()

    def test_maps_may_be_oblong(self, conditioner):
        sample = toy_sample(0, 24)
        masks = {k: v[:16] for k, v in sample.masks.items()}
        oblong = type(sample)(sample.id, masks, sample.image[:, :16], sample.metadata)
        signal = conditioner.encode(observe(conditioner, [oblong]))
        assert conditioner.spec.kind != "map" or signal.data.shape[2:] == (16, 24)

    def test_is_deterministic(self, conditioner):
        torch.manual_seed(0)
        a = observe(conditioner)
        torch.manual_seed(1)
        assert same(observe(conditioner), a)
        assert torch.equal(conditioner.encode(a).data, conditioner.encode(a).data)

    def test_leaves_the_sample_alone(self, conditioner):
        sample = toy_sample(0, SIDE)
        before = copy.deepcopy(sample)
        observe(conditioner, [sample])
        assert (sample.image == before.image).all()
        assert all((sample.masks[k] == before.masks[k]).all() for k in before.masks)
        assert sample.metadata == before.metadata

    def test_needs_no_image_but_the_appearances(self, conditioner):
        first = SAMPLES[0]
        unpainted = type(first)(first.id, first.masks, None, first.metadata, first.appearance)
        assert same(observe(conditioner, [unpainted]), observe(conditioner, [first]))

    def test_absent_is_not_present(self, conditioner):
        signal = conditioner.encode(observe(conditioner))
        null = conditioner.null(signal)
        assert null.data.shape == signal.data.shape
        assert null.data.dtype == signal.data.dtype
        assert (null.mask is None) == (signal.mask is None)
        for present, absent in zip(rows_of(signal), rows_of(null), strict=True):
            assert present.shape != absent.shape or not torch.allclose(present, absent)
        first = rows_of(null)[0]
        assert all(torch.equal(row, first) for row in rows_of(null))
        assert rows_of(null)[0].numel() > 0

    def test_an_empty_field_is_not_an_absent_one(self, conditioner):
        first = SAMPLES[0]
        empty = type(first)(first.id, {k: v * 0 for k, v in first.masks.items()}, first.image, first.metadata)
        signal = conditioner.encode(observe(conditioner, [empty]))
        present, absent = rows_of(signal)[0], rows_of(conditioner.null(signal))[0]
        assert present.shape != absent.shape or not torch.allclose(present, absent)

    def test_rows_do_not_touch_each_other(self, conditioner):
        together = rows_of(conditioner.encode(observe(conditioner)))
        for i, row in enumerate(together):
            (alone,) = rows_of(conditioner.encode(observe(conditioner, [SAMPLES[i]])))
            torch.testing.assert_close(alone, row, rtol=1e-5, atol=1e-5)

    def test_gradients_reach_the_parameters(self, conditioner):
        conditioner.zero_grad(set_to_none=True)
        signal = conditioner.encode(observe(conditioner))
        null = conditioner.null(signal)
        g = torch.Generator().manual_seed(0)
        loss = sum((d * torch.randn(d.shape, generator=g)).sum() for d in (signal.data, null.data))
        parameters = [p for p in conditioner.parameters() if p.requires_grad]
        assert bool(parameters) == loss.requires_grad
        if parameters:
            loss.backward()
            assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
            dead = [n for n, p in conditioner.named_parameters() if p.requires_grad and p.grad is None]
            assert not dead
        conditioner.zero_grad(set_to_none=True)

    def test_moves_to_a_device(self, conditioner):
        before = conditioner.encode(observe(conditioner)).data
        assert torch.equal(conditioner.to("cpu").encode(observe(conditioner)).data, before)

    def test_weights_and_facts_make_it_again(self, conditioner):
        facts = json.loads(json.dumps(dict(conditioner.facts)))
        twin = type(conditioner)(conditioner.config, facts).eval()
        twin.load_state_dict(conditioner.state_dict())
        assert twin.spec == conditioner.spec
        a, b = (c.encode(observe(c)) for c in (conditioner, twin))
        assert torch.equal(a.data, b.data)
        assert torch.equal(twin.null(b).data, conditioner.null(a).data)

    def test_bf16(self, conditioner):
        observed = observe(conditioner)
        exact = conditioner.encode(observed)
        with torch.autocast("cpu", torch.bfloat16):
            signal = conditioner.encode(observed)
            null = conditioner.null(signal)
        assert null.data.dtype == signal.data.dtype
        torch.testing.assert_close(signal.data.float(), exact.data, rtol=0.1, atol=0.1)

    def test_goes_to_a_worker(self, conditioner, tmp_path):
        """A worker that is not forked gets the conditioner pickled, without its weights."""
        images = [s.image for s in SAMPLES]
        dataset = SimpleNamespace(ids=["a"], sizes=[images[0].shape[1:]], root=tmp_path)
        stream = TrainingStream(dataset, {"x": conditioner}, DataSection(crop=8), 0)
        copy_ = pickle.loads(pickle.dumps(stream)).conditioners["x"]
        assert same(observe(copy_), observe(conditioner))

    def test_can_be_copied(self, conditioner):
        twin = copy.deepcopy(conditioner)
        assert torch.equal(twin.encode(observe(twin)).data, conditioner.encode(observe(conditioner)).data)


def test_signatures():
    for name in HOST.names("injector"):
        cls = HOST.load("injector", name)
        assert issubclass(cls, Injector)
        assert cls.accepts
        assert cls.site_kinds
        assert list(inspect.signature(cls.prepare).parameters) == ["self", "signal"]
        assert list(inspect.signature(cls.inject).parameters) == ["self", "h", "state", "scale", "shift"]
    for name in CONDITIONERS:
        cls = HOST.load("conditioner", name)
        assert list(inspect.signature(cls.encode).parameters) == ["self", "batch"]
        assert list(inspect.signature(cls.null).parameters) == ["self", "like"]


@pytest.mark.parametrize("kind", ["conditioner", "injector", "backbone"])
def test_every_setting_is_described(kind):
    for name in HOST.names(kind):
        cls = HOST.load(kind, name)
        assert (cls.__doc__ or "").strip()
        assert cls.Config.model_config["extra"] == "forbid"
