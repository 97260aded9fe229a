"""Compiling by NVRTC, which needs no GPU, and what happens where there is none."""

import pytest
import torch

from msdm_kit.core.kernels import cross_attention_cuda, norm_cuda, nvrtc


# Ampere and Hopper; fp32 and bf16
@pytest.mark.parametrize(("arch", "dtype"), [("80", torch.float32), ("90", torch.bfloat16)])
def test_nvrtc_compiles_the_sources(arch, dtype):
    try:
        nvrtc._nvrtc()
    except nvrtc.NvrtcError:
        pytest.skip("no NVRTC library")
    for source, names in (
        ("norm.cu", norm_cuda.forward_kernels(dtype, 4)),
        ("norm_backward.cu", norm_cuda.backward_kernels(dtype, 4)),
        ("cross_attention.cu", cross_attention_cuda.kernel_names(dtype, 4)),
    ):
        code, symbols = nvrtc.compile_source(nvrtc.read_source("common.cuh", source), names, arch)
        assert code[:4] == b"\x7fELF"
        assert tuple(symbols) == names
        assert all(symbol.encode() in code for symbol in symbols.values())


def test_nvrtc_says_what_is_wrong():
    try:
        nvrtc._nvrtc()
    except nvrtc.NvrtcError:
        pytest.skip("no NVRTC library")
    with pytest.raises(nvrtc.NvrtcError, match="expected a"):
        nvrtc.compile_source("__global__ void f() { int x = ; }", ["f"], "90")


def test_without_a_gpu_there_are_no_kernels():
    source, names = nvrtc.read_source("norm.cu"), ("norm_finalise",)
    assert nvrtc.load(source, names, torch.device("cpu")) is None
    h = torch.zeros(1, 8, 4, 4)
    assert not norm_cuda.available(h)
    assert not cross_attention_cuda.available(h, torch.zeros(1, 8, 4))
    with pytest.raises(RuntimeError, match="no kernel for a map"):
        norm_cuda.forward(h, 2, *[None] * 5, True)


def test_a_failure_to_compile_is_said_once_and_final(monkeypatch, caplog):
    tries = []

    def refuse(*given):
        tries.append(given)
        raise nvrtc.NvrtcError("nvrtc: no such architecture\nand more")

    nvrtc._said.cache_clear()
    monkeypatch.setattr(nvrtc, "Module", refuse)
    monkeypatch.setattr(nvrtc, "_LOADED", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with caplog.at_level("WARNING", logger="msdm_kit"):
        for _ in range(2):
            assert nvrtc.load("source", ("kernel",), torch.device("cuda", 0)) is None
    assert len(tries) == 1
    assert [r.getMessage() for r in caplog.records] == [
        "no CUDA kernels, plain torch instead: nvrtc: no such architecture"
    ]


def test_nothing_is_loaded_while_a_graph_is_captured(monkeypatch):
    monkeypatch.setattr(nvrtc, "Module", lambda *given: given)
    monkeypatch.setattr(nvrtc, "_LOADED", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert nvrtc.load("source", ("kernel",), torch.device("cuda", 0)) is None
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert nvrtc.load("source", ("kernel",), torch.device("cuda", 0)) == ("source", ("kernel",), 0)
