"""bf16 where the machine computes it, fp32 elsewhere. Never fp16."""

import torch

from .recipe import Precision


def native_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 itself: emulated, it is slower than fp32 and no more exact."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # Arm cores have it as an extension that torch does not report: fp32 is the safe answer there
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """bf16 autocast where it is asked for and native, otherwise none."""
    return torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == "bf16" and native_bf16(device)
    )
