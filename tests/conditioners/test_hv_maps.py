import pickle

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from msdm_kit.conditioners.hv import hv_maps
from msdm_kit.conditioners.hv_maps import HVMaps
from msdm_kit.core.conditioning import Spec
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.sample import Sample


@pytest.fixture
def sample() -> Sample:
    cell, nucleus = np.zeros((16, 20), np.int32), np.zeros((16, 20), np.int32)
    cell[2:9, 2:9], cell[10:15, 5:19] = 1, 2
    nucleus[4:7, 4:7] = 1
    return Sample(id="s", masks={"cell": cell, "nucleus": nucleus})


def make(**settings: object) -> HVMaps:
    return HVMaps(HVMaps.Config(**settings), {})


def test_channels_follow_the_order_of_masks(sample: Sample) -> None:
    conditioner = make(masks=["nucleus", "cell"])
    found = conditioner.observe(sample)["map"]
    expected = np.concatenate([hv_maps(sample.masks[k]) for k in ("nucleus", "cell")])
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == torch.float32


def test_spec_is_the_form_of_the_signal(sample: Sample) -> None:
    conditioner = make()
    signal = conditioner.encode(conditioner.collate([conditioner.observe(sample)] * 2))
    assert conditioner.spec == Spec("map", 4)
    assert signal.data.shape == (2, 4, 16, 20)
    assert conditioner.reads == {"morphology"}
    assert make(masks=["cell"]).spec == Spec("map", 2)


@pytest.mark.parametrize("mode", ["hover", "hover_legacy", "boundary", "edt"])
def test_mode_is_passed_on(sample: Sample, mode: str) -> None:
    found = make(mode=mode, masks=["cell"]).observe(sample)["map"]
    np.testing.assert_array_equal(found, hv_maps(sample.masks["cell"], mode))


def test_null_is_none_of_the_present_not_even_where_there_is_no_instance(sample: Sample) -> None:
    conditioner = make()
    empty = Sample(id="e", masks={k: np.zeros_like(m) for k, m in sample.masks.items()})
    signal = conditioner.encode(conditioner.collate([conditioner.observe(s) for s in (sample, empty)]))
    null = conditioner.null(signal)
    assert null.data.shape == signal.data.shape
    assert null.data.dtype == signal.data.dtype
    assert (null.data != signal.data).all()


def test_deterministic_also_after_pickling(sample: Sample) -> None:
    conditioner = make()
    again = pickle.loads(pickle.dumps(conditioner))
    assert torch.equal(conditioner.observe(sample)["map"], again.observe(sample)["map"])


def test_missing_mask_is_named(sample: Sample) -> None:
    with pytest.raises(MsdmError, match=r"no 'membrane' mask; it has: cell, nucleus"):
        make(masks=["membrane"]).observe(sample)


@pytest.mark.parametrize(
    "settings", [{"masks": []}, {"masks": ["cell", "cell"]}, {"mode": "x"}, {"mask": ["cell"]}]
)
def test_bad_settings(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        make(**settings)
