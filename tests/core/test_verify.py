"""The check of a kernel at its first use; the kernels themselves: test_cuda_source, test_kernels_gpu."""

import logging

import pytest
import torch

from msdm_kit.core.kernels import norm_cuda, norm_twin
from msdm_kit.core.kernels.verify import agrees


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_passes_and_an_error_does_not(dtype, caplog):
    exact = torch.linspace(-3, 3, 100)
    near, far = exact * (1 + torch.finfo(dtype).eps), exact.clone()
    far[7] += 0.5
    with caplog.at_level(logging.WARNING, "msdm_kit"):
        assert agrees("k", dtype, lambda: [near, None], lambda: [exact, None])
        assert not caplog.records
        assert not agrees("k", dtype, lambda: [far], lambda: [exact])
        assert not agrees("k", dtype, lambda: [exact * float("nan")], lambda: [exact])
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        "k is not used, plain torch instead"
    ] * 2


def test_a_launch_that_fails_is_one_line(caplog):
    def broken():
        raise RuntimeError("CUDA error 700\nand more")

    with caplog.at_level(logging.WARNING, "msdm_kit"):
        assert not agrees("k", torch.float32, broken, lambda: [torch.ones(1)])
    assert "CUDA error 700" in caplog.text
    assert "and more" not in caplog.text


@pytest.mark.parametrize("channels", [6, 20, 64])
def test_what_is_compared_tells_a_wrong_gradient(channels, monkeypatch):
    """The case that `norm_cuda` is held against, run here with the twin in the kernel's place."""
    monkeypatch.setattr(norm_cuda, "forward", norm_twin.forward)
    monkeypatch.setattr(norm_cuda, "backward", norm_twin.backward)
    for dtype in norm_cuda.TYPES:
        assert norm_cuda._verify(channels, dtype, torch.device("cpu"))

    def wrong(*args):
        dh, *rest = norm_twin.backward(*args)
        dh[0, 1] *= 1.5
        return dh, *rest

    monkeypatch.setattr(norm_cuda, "backward", wrong)
    assert not norm_cuda._verify(channels, torch.float32, torch.device("cpu"))
