import pytest
import torch

from msdm_kit.core import mapped
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.mapped import MappedTensor, each_band, scratch_array


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    monkeypatch.setattr(mapped, "BAND", 100)
    monkeypatch.setattr(mapped, "_PIECE", 160)


def drawn(seed=0, shape=(1, 3, 17, 11)):
    tensor = MappedTensor(shape).fill_normal(torch.Generator().manual_seed(seed))
    return tensor, whole(tensor).clone()


def whole(tensor):
    return tensor.at(slice(None))


@pytest.mark.parametrize("shape", [(1, 3, 17, 11), (1, 3, 16, 20), (1, 1, 1, 5), (1, 3, 8, 7)])
def test_noise_is_what_torch_draws_at_once_again_and_again(shape):
    a, b = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    for _ in range(2):
        assert torch.equal(whole(MappedTensor(shape).fill_normal(a)), torch.randn(shape, generator=b))


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: 0.3 * a + b * 0.7 - a / 3,
        lambda a, b: 1 - a,
        lambda a, b: 2 / (b + 5),
        lambda a, b: -a + 0.0,
        lambda a, b: sum((w * x for w, x in zip((0.1, 0.2), (a, b), strict=True)), 0.0),
        lambda a, b: (0.5 * a).exp() * b,
        lambda a, b: torch.full((1, 1, 1, 1), 0.5).exp() * b,
        lambda a, b: torch.lerp(a, b, 0.25),
        lambda a, b: torch.where(a.abs() ** 2 - 1 > 0, a, b) if isinstance(a, torch.Tensor) else None,
        lambda a, b: a.clamp(-1, 1).square(),
    ],
)
def test_arithmetic_is_that_of_tensors(function):
    (a, in_a), (b, in_b) = drawn(0), drawn(1)
    found = function(a, b)
    if found is None:  # comparisons are for tensors
        with pytest.raises(TypeError):
            a > 0  # noqa: B015
    else:
        assert torch.equal(whole(found), function(in_a, in_b))


@pytest.mark.parametrize(
    "call", [lambda a: torch.flip(a, (2,)), lambda a: torch.mean(a), lambda a: torch.cumsum(a, 2)]
)
def test_what_is_not_elementwise_is_refused(call):
    with pytest.raises(MsdmError, match="not elementwise"):
        call(drawn()[0])
    with pytest.raises(AttributeError, match="mean"):
        drawn()[0].mean()


def test_functions_of_several_results():
    (a, in_a), (b, in_b) = drawn(0), drawn(1)
    total, level, wide = each_band(lambda x, y: (x + y, torch.ones(()), torch.cat([x, y], 1)), a, b)
    assert torch.equal(whole(total), in_a + in_b)
    assert level == 1
    assert torch.equal(whole(wide), torch.cat([in_a, in_b], 1))


def test_scratch_files_have_no_name(tmp_path):
    array = scratch_array((4, 5), "uint8", tmp_path)
    assert not array.any()
    array[2] = 7
    assert (array.sum(), array.shape) == (35, (4, 5))
    assert list(tmp_path.iterdir()) == []


def test_a_disc_that_is_too_small_is_said_beforehand(tmp_path):
    with pytest.raises(MsdmError, match=r"cannot make a scratch file of \d+ bytes"):
        scratch_array((2**40, 2**20), "uint8", tmp_path)
    with pytest.raises(MsdmError, match="scratch file"):
        scratch_array((1,), "uint8", tmp_path / "missing")
